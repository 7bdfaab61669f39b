"""Any indicator of pandas-ta-classic as an own feature."""

import inspect
import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit.errors import ConfigError, DependencyError
from mlkit.features.custom import Feature
from mlkit.features.laws import TOLERANCE
from mlkit.market import COLUMNS
from mlkit.market.simulate import null_market

if TYPE_CHECKING:
    import pandas as pd

WARM_UPS = 6  # default lookback in units of the longest period: a Wilder average is within 0.3 % of its limit
SHORTEST = 10  # bars; the default lookback of an indicator without a period
_REFERENCE_BARS = 1_000
_INPUTS = {**{name: name for name in COLUMNS}, "open_": "open"}
_PERIOD = re.compile(r"length|period|fast|slow|signal|tenkan|kijun|senkou|drift")

#: What pandas-ta-classic calls the columns of its indicators, and what they are.
PARTS = {
    "SUPERT": "line", "SUPERTd": "direction", "SUPERTl": "long", "SUPERTs": "short",
    "PSARl": "long", "PSARs": "short", "PSARaf": "acceleration", "PSARr": "reversal",
    "HILO": "line", "HILOl": "long", "HILOs": "short", "CE_L": "long", "CE_S": "short",
    "CKSPl": "long", "CKSPs": "short", "AMATe_LR": "long", "AMATe_SR": "short",
    "BBL": "lower", "BBM": "middle", "BBU": "upper", "BBB": "bandwidth", "BBP": "position",
    "ACCBL": "lower", "ACCBM": "middle", "ACCBU": "upper", "DCL": "lower", "DCM": "middle", "DCU": "upper",
    "KCLe": "lower", "KCBe": "middle", "KCUe": "upper", "KCLs": "lower", "KCBs": "middle", "KCUs": "upper",
    "ABER_ZG": "middle", "ABER_SG": "upper", "ABER_XG": "lower", "ABER_ATR": "atr",
    "HWM": "middle", "HWU": "upper", "HWL": "lower",
    "ADX": "line", "ADXR": "line", "DMP": "plus", "DMN": "minus",
    "AROOND": "down", "AROONU": "up", "AROONOSC": "oscillator", "VTXP": "plus", "VTXM": "minus",
    "ISA": "span_a", "ISB": "span_b", "ITS": "conversion", "IKS": "base", "ICS": "lagging_span",
    "STOCHk": "k", "STOCHd": "d", "STOCHFk": "k", "STOCHFd": "d", "STOCHRSIk": "k", "STOCHRSId": "d",
    "BULLP": "bull", "BEARP": "bear", "MAMA": "mama", "FAMA": "fama", "SMIo": "oscillator", "FISHERT": "line",
    "HT_PHASOR_INPHASE": "in_phase", "HT_PHASOR_QUAD": "quadrature", "HT_LEADSINE": "lead", "HT_SINE": "line",
    "TD_SEQ_UPa": "up", "TD_SEQ_DNa": "down", "DD": "absolute", "DD_PCT": "share", "DD_LOG": "log",
}  # fmt: skip


def pandas_ta(
    indicator: str,
    *,
    lookback: int | None = None,
    name: str | None = None,
    tolerance: float = TOLERANCE,
    fill: float | None = 0.0,
    **parameters: Any,
) -> Feature:
    """An indicator of pandas-ta-classic as an own feature.

    Parameters
    ----------
    indicator : str
        Its name there, such as "supertrend"; "cdl_" and a candlestick pattern, such as "cdl_hammer".
    lookback : int
        6 x its longest period by default. Path-dependent ones such as psar remember more: the restart law
        tells.
    name : str
        The indicator and its parameters by default: ``supertrend_10``. Several columns are told apart by what
        they are: ``supertrend_10_direction``.
    tolerance : float
        See `Feature`.
    fill : float or None
        What stands where the indicator says nothing after the lookback, as the long side while it is short;
        None leaves NaN, which the laws refuse.
    parameters
        Passed on. ``talib`` is False unless given, so that an installed TA-Lib changes no number.

    Raises
    ------
    ConfigError for an unknown indicator or parameter, one that needs more than bars, and a lookback that is
    shorter than its warm-up; DependencyError without pandas-ta-classic.

    Notes
    -----
    Nothing here stops an indicator from looking ahead; several do by default (``dpo``, ``ichimoku``). The
    laws refuse them. Many are in units of the price: divide by the close, in a feature of your own, before a
    model learns from them.
    """
    compute = _indicator(indicator, parameters)
    reference = null_market(_REFERENCE_BARS, seed=0)
    table = compute(reference)
    if table is None or not np.isfinite(table.to_numpy()).any(axis=0).all():
        raise ConfigError(f"pandas_ta {indicator!r}: gives no numbers for {_REFERENCE_BARS} bars and {parameters}")
    settled = int(np.isfinite(table.to_numpy()).any(axis=1).argmax())
    if lookback is None:
        first = np.isfinite(table.to_numpy()).argmax(axis=0).max()
        numbers = {key: number for key, number in parameters.items() if isinstance(number, int | float)}
        periods = [int(number) for key, number in numbers.items() if _PERIOD.search(key) and number > 0]
        lookback = max(SHORTEST, WARM_UPS * max([int(first) + 1, *periods]))
    if lookback < settled:
        raise ConfigError(f"pandas_ta {indicator!r}: lookback {lookback} is shorter than its warm-up of {settled} bars")
    return Feature(
        _filled(compute, _parts(indicator, list(table.columns)), lookback, fill),
        name or "_".join([indicator, *(_word(key, value) for key, value in parameters.items())]),
        lookback,
        tolerance,
    )


Compute = Callable[["pd.DataFrame"], "pd.DataFrame | None"]


def _indicator(indicator: str, parameters: dict[str, Any]) -> Compute:
    """Bars to the indicator's columns as it names them, None where there are too few bars."""
    function = _function(indicator)
    known = inspect.signature(function).parameters
    unknown = [key for key in parameters if key not in known and key not in ("lookahead", "ddof", "presma")]
    if unknown:
        raise ConfigError(f"pandas_ta {indicator!r} has no parameter {unknown[0]!r}; it has {', '.join(known)}")
    lacking = [
        p.name
        for p in known.values()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD and p.name not in {*_INPUTS, *parameters}
    ]
    if lacking:
        raise ConfigError(
            f"pandas_ta {indicator!r} needs {lacking[0]!r}, which bars do not have; "
            "call it in a function of your own under @mlkit.feature(lookback=...)"
        )
    settings = ({"talib": False} if "talib" in known else {}) | parameters

    def compute(bars: "pd.DataFrame") -> "pd.DataFrame | None":
        import pandas as pd

        inputs = {key: bars[column].copy() for key, column in _INPUTS.items() if key in known}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = function(**inputs, **settings)
        if isinstance(result, tuple):  # ichimoku: the second frame lies beyond the last bar
            result = result[0]
        if result is None:
            return None
        if not isinstance(result, pd.Series | pd.DataFrame) or not result.index.equals(bars.index):
            raise ConfigError(f"pandas_ta {indicator!r} does not give one value a bar; it cannot be a feature")
        frame = result.to_frame(str(result.name)) if isinstance(result, pd.Series) else result
        return frame.astype(np.float64)

    return compute


def _function(indicator: str) -> Callable[..., Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own deprecations
            import pandas_ta_classic
    except ModuleNotFoundError as error:
        raise DependencyError("pandas_ta needs pandas-ta-classic: pip install 'mlkit[lab]'") from error
    known = {one for category in pandas_ta_classic.Category.values() for one in category}
    if indicator not in known and indicator.startswith("cdl_"):
        return partial(pandas_ta_classic.cdl_pattern, name=indicator.removeprefix("cdl_"))
    if indicator not in known:
        near = sorted(one for one in known if one.startswith(indicator[:2]))
        raise ConfigError(f"pandas_ta: no indicator {indicator!r}; near it: {', '.join(near) or 'none'}")
    function: Callable[..., Any] = getattr(pandas_ta_classic, indicator)
    return function


def _filled(
    compute: Compute, parts: dict[str, str], lookback: int, fill: float | None
) -> Callable[["pd.DataFrame"], "pd.Series[float] | pd.DataFrame"]:
    """The feature's function: named parts, filled once warm; NaN where there are too few bars."""

    def function(bars: "pd.DataFrame") -> "pd.Series[float] | pd.DataFrame":
        import pandas as pd

        table = compute(bars)
        if table is None:
            table = pd.DataFrame(np.nan, index=bars.index, columns=list(parts))
        if fill is not None:
            table.iloc[lookback:] = table.iloc[lookback:].fillna(fill)
        if len(parts) == 1:
            return table.iloc[:, 0]
        return table.rename(columns=parts)

    return function


def _word(key: str, value: Any) -> str:
    """A parameter as part of a name: 10, ema, centered, no_centered."""
    if isinstance(value, bool):
        return key if value else f"no_{key}"
    text = "_".join(str(x) for x in value) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"[^A-Za-z0-9_.]", "_", text)


def _parts(indicator: str, columns: list[str]) -> dict[str, str]:
    """pandas-ta-classic's column names to what they are: {"MACDh_12_26_9": "histogram", ...}."""
    stems = {c: "_".join(p for p in c.split("_") if not re.fullmatch(r"-?\d+(\.\d+)?", p)) for c in columns}
    if len(set(stems.values())) < len(columns):  # only their numbers differ, as in a ribbon of averages
        stems = {c: c for c in columns}
    base = min(stems.values(), key=len)
    trio = {base: "line", f"{base}h": "histogram", f"{base}s": "signal"}
    if not set(stems.values()) <= set(trio):
        trio = PARTS
    return {c: trio.get(stem) or stem.lower().removeprefix(f"{indicator}_") for c, stem in stems.items()}
