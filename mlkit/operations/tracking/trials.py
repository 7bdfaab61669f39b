"""Fits written to the trial ledger, and the number of trials that a verdict must be corrected for."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlkit.config import Settings
from mlkit.errors import ConfigError
from mlkit.evaluation import Ledger, Source, configuration_hash
from mlkit.features import FeatureSet
from mlkit.models.ensemble import EnsembleSettings
from mlkit.operations.tracking.tracking import active

if TYPE_CHECKING:
    import pandas as pd

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def feature_digest(features: FeatureSet) -> str:
    """Hash of the column names and of the code of own feature functions."""
    own = [[one.name, one.lookback, one.tolerance, _behaviour(one.function)] for one in features.own]
    return configuration_hash({"columns": list(features.names), "own": own})


def _behaviour(function: Callable[..., Any]) -> list[Any]:
    """Instructions, names, constants and bound values of a function, without line numbers, file and addresses."""
    code = getattr(function, "__code__", None)
    if code is None:
        return [_ADDRESS.sub("", repr(function))]
    bound = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    bound.append(getattr(function, "__defaults__", None))
    return [*_instructions(code), *(_ADDRESS.sub("", repr(value)) for value in bound)]


def _instructions(code: Any) -> list[Any]:
    constants = [_instructions(c) if hasattr(c, "co_code") else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]


def configuration(
    settings: Settings, ensemble: EnsembleSettings, features: str, design: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Everything that was chosen for a fit, as plain values; the number of threads is left out.

    Parameters
    ----------
    settings, ensemble : as the fit takes them
    features : `feature_digest`
    design : what else was chosen, such as the number of folds
    """
    trees = {name: value for name, value in asdict(ensemble).items() if name != "n_threads"}
    return {
        "ensemble": trees | {"fractions": list(ensemble.fractions)},
        "horizons": list(settings.prediction_horizons),
        "seed": settings.seed,
        "features": features,
        "design": dict(design or {}),
    }


@contextmanager
def recorded(
    settings: Settings, sources: Sequence[Source], tried: Mapping[str, Any], *, purpose: str = "price"
) -> Iterator[None]:
    """Write the start and the end of a fit, which is the block, to the trial ledger and to the active tracked run.

    The ledger's line holds the run's key and MLflow's id; the run gets the number of trials in the ledger for these
    data as a metric. ConfigError where the ledger cannot be written.
    """
    run, ledger = active(), Ledger.of(settings)
    about = {"tracked": {"key": run.key, "id": run.id}} if run is not None else None
    with ledger.trial(sources, tried, purpose=purpose, about=about):
        if run is not None:
            counted = "trials" if purpose == "price" else f"trials {purpose}"
            run.metrics({counted: ledger.trials(sources, purpose=purpose)})
        yield


def count_trials(forecasts: "pd.DataFrame", settings: Settings) -> int:
    """Number of configurations in the ledger for the data of these forecasts, at least 1.

    ConfigError for forecasts without ``attrs["sources"]``.
    """
    sources = forecasts.attrs.get("sources")
    if not sources:
        raise ConfigError(
            "score: these forecasts do not say which data they are of, so the ledger cannot tell how often it was "
            "tried; pass what walk_forward returned, or trials=..."
        )
    return max(1, Ledger.of(settings).trials([Source(**source) for source in sources]))
