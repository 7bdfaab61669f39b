"""A universe of markets over several processes or machines: features, training, evaluation.

Each market is one task. It reads its bars from the lake and writes large results into the caller's folder. A task that
is repeated because its worker was killed writes the same bytes under the same names, and only the caller publishes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import pandas as pd

from mlkit.config import Settings, project_root, write_atomic
from mlkit.errors import ConfigError, LakeError, MlkitError, ScaleError
from mlkit.evaluation import RUN, join_run
from mlkit.features import place_of, save_features
from mlkit.market import load_bars
from mlkit.models.bundle import ModelBundle, publish
from mlkit.operations.tracking.tracking import alias
from mlkit.operations.training.scoring import score
from mlkit.operations.training.training import train, walk_forward

Work = Literal["features", "train", "evaluate"]
_FOLDERS = {"features": "data/features", "evaluate": "data/evaluations"}  # of the results, by default
_RETRIES = 2  # of a task that ended with an error; Dask itself repeats those of a killed worker


@dataclass(frozen=True)
class MarketOutcome:
    """The result of one market; ``str()`` is one line."""

    symbol: str
    timeframe: str
    bars: int = 0
    place: str = ""  # folder, file or bundle that was written
    verdicts: dict[str, str] = field(default_factory=dict)  # per horizon, of a training or an evaluation
    scores: list[dict[str, Any]] = field(default_factory=list)  # rows of `score`, of an evaluation
    error: str = ""

    def __str__(self) -> str:
        verdicts = ", ".join(f"{h}: {verdict}" for h, verdict in self.verdicts.items())
        done = f"{self.bars:,} bars, {self.place}" + (f" ({verdicts})" if verdicts else "")
        return f"{self.symbol} {self.timeframe}: {self.error or done}"


@dataclass(frozen=True)
class UniverseReport:
    """The outcomes of all markets, in the order asked for; prints one line a market."""

    outcomes: tuple[MarketOutcome, ...]

    @property
    def failed(self) -> tuple[MarketOutcome, ...]:
        """Markets that ended with an error."""
        return tuple(outcome for outcome in self.outcomes if outcome.error)

    @property
    def scores(self) -> pd.DataFrame:
        """Of an evaluation: the rows of `score`, index (symbol, horizon)."""
        rows = [{"symbol": outcome.symbol, **row} for outcome in self.outcomes for row in outcome.scores]
        return pd.DataFrame(rows).set_index(["symbol", "horizon"]) if rows else pd.DataFrame()

    def demand(self) -> None:
        """Raise ScaleError, one line that names the markets that failed; nothing where none did."""
        if self.failed:
            named = "; ".join(map(str, self.failed[:3])) + ("; ..." if len(self.failed) > 3 else "")
            raise ScaleError(f"{len(self.failed)} of {len(self.outcomes)} markets failed: {named}")

    def __str__(self) -> str:
        return "\n".join(map(str, self.outcomes))

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{escape(str(outcome))}</td></tr>" for outcome in self.outcomes)
        return f"<table>{rows}</table>"


Watch = Callable[[MarketOutcome, int, int], None]  # called with an outcome, the number so far, and the number of all


def run_universe(
    work: Work,
    symbols: Sequence[str],
    timeframe: str,
    settings: Settings | None = None,
    *,
    client: Any = None,
    out: str | Path | None = None,
    watch: Watch | None = None,
) -> UniverseReport:
    """Do the same work for every market of a universe.

    Parameters
    ----------
    work : "features" writes what `save_features` does, "evaluate" the forecasts of `walk_forward` and their `score`,
        "train" what `mlkit.train` does: a published bundle a market
    symbols, timeframe : each task loads its bars by name, see `mlkit.load_bars`
    settings : lake, models, ledger, seed, profile, threads; its folders must be the same for all machines
    client : of `connect`; None does one market after the other in this process, with the same results to the bit
    out : folder of features (a URL too) or evaluations; by default ``data/features``, ``data/evaluations``
    watch : called with each outcome, the number so far, and the number of all

    Returns the report, with the errors of single markets; its ``demand()`` raises them. Raises ConfigError for no
    symbols, or one named twice; ScaleError when the scheduler goes away.
    """
    if not symbols or len(set(symbols)) < len(symbols):
        raise ConfigError("a universe must name at least one symbol, and none twice")
    settings, place = settings or Settings(), out if out is not None else _FOLDERS.get(work, "")
    # Paths that do not depend on a worker's working directory.
    paths = {
        "training_data_path": settings.lake,
        "model_storage_path": settings.models,
        "ledger_path": settings.ledger,
        "pattern_weights_path": settings.pattern_weights,
    }
    order = {
        "work": work,
        "timeframe": timeframe,
        "settings": settings.model_copy(update=paths).model_dump(mode="json"),
        "out": place if isinstance(place, str) and "://" in place else str(project_root() / place),
        "run": RUN,
        "threads": _threads(),
    }
    found: dict[str, MarketOutcome] = {}
    for outcome in _in_this_process(order, symbols) if client is None else _on_workers(order, symbols, client):
        if work == "train" and not outcome.error:
            outcome = _published(outcome, settings)
        found[outcome.symbol] = outcome
        if watch:
            watch(outcome, len(found), len(symbols))
    return UniverseReport(tuple(found[symbol] for symbol in symbols))


def _in_this_process(order: dict[str, Any], symbols: Iterable[str]) -> Iterator[MarketOutcome]:
    for symbol in symbols:
        try:
            yield do_market(order, symbol)
        except Exception as error:  # of one market: the others go on
            yield _failure(order, symbol, error)


def _on_workers(order: dict[str, Any], symbols: Sequence[str], client: Any) -> Iterator[MarketOutcome]:
    """Outcomes in the order in which workers finish them."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker, as_completed

    batch, options = uuid4().hex, {"pure": False, "retries": _RETRIES}
    jobs = {
        client.submit(do_market, order, symbol, key=f"{order['work']}-{symbol}-{batch}", **options): symbol
        for symbol in symbols
    }
    for job in as_completed(jobs, loop=client.loop):
        symbol = jobs[job]
        try:
            yield job.result()
        except KilledWorker:
            yield _failure(order, symbol, "killed its worker each time it was tried; give workers more memory")
        except Exception as error:  # of one market: the others go on, unless there is no scheduler any more
            lost = isinstance(error, OSError) and client.status != "running"
            if lost or isinstance(error, CancelledError):
                raise ScaleError("the scheduler went away; what was done stays, run the command again") from error
            yield _failure(order, symbol, error)
        job.release()


def do_market(order: dict[str, Any], symbol: str) -> MarketOutcome:
    """The task of a worker: one market. An error of the market itself is returned as its outcome."""
    from threadpoolctl import threadpool_limits

    join_run(order["run"])
    settings = Settings(**order["settings"])
    try:
        with threadpool_limits(limits=order["threads"]):
            return _do(order["work"], symbol, order["timeframe"], settings, order["out"])
    except LakeError:  # the store was busy: the task is repeated
        raise
    except MlkitError as error:
        return _failure(order, symbol, error)


def _failure(order: dict[str, Any], symbol: str, error: Exception | str) -> MarketOutcome:
    text = " ".join(str(error).split())
    if not isinstance(error, MlkitError | str):
        text = f"{type(error).__name__}: {text}"
    return MarketOutcome(symbol, order["timeframe"], error=text.removeprefix(f"{symbol} {order['timeframe']}: "))


def _do(work: Work, symbol: str, timeframe: str, settings: Settings, out: str) -> MarketOutcome:
    bars, place = load_bars(symbol, timeframe, settings=settings), f"{out}/{place_of(symbol, timeframe)}"
    if work == "features":
        return MarketOutcome(symbol, timeframe, save_features(bars, out)["rows"], place)
    if work == "train":
        bundle = train(bars, settings, publish=False)
        metrics: Any = bundle.manifest.metrics
        verdicts = {str(h): str(metrics[str(h)].get("verdict")) for h in bundle.manifest.horizons}
        return MarketOutcome(symbol, timeframe, len(bars), str(bundle.path), verdicts)
    forecasts = walk_forward(bars, settings)
    table = score(forecasts, settings)
    path = Path(place) / "forecasts.parquet"
    write_atomic(path, forecasts.to_parquet())
    rows: list[Any] = table.reset_index().to_dict("records")
    verdicts = {str(row["horizon"]): str(row["verdict"]) for row in rows}
    return MarketOutcome(symbol, timeframe, len(bars), str(path), verdicts, rows)


def _published(outcome: MarketOutcome, settings: Settings) -> MarketOutcome:
    """Publish the bundle of a training; only the calling process does."""
    if not Path(outcome.place).is_dir():
        why = "is not seen here; models need a folder that all machines share (MLKIT_MODEL_STORAGE_PATH)"
        return replace(outcome, error=f"its worker wrote {outcome.place}, which {why}")
    try:
        bundle = ModelBundle.open(outcome.place)
        publish(bundle)
        alias(settings, bundle, "champion")
    except (MlkitError, OSError) as failure:
        return replace(outcome, error=" ".join(str(failure).split()))
    return outcome


def _threads() -> dict[str, int]:
    """Threads of BLAS and OpenMP in this process; a worker gets as many, since the bits of a sum depend on them."""
    import numpy as np
    from threadpoolctl import threadpool_info

    np.dot(np.ones(2), np.ones(2))
    counts: dict[str, int] = {}
    for pool in threadpool_info():
        counts[pool["user_api"]] = max(int(pool["num_threads"]), counts.get(pool["user_api"], 1))
    return counts
