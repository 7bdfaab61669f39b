"""A universe of markets over several processes or machines: features, training, evaluation.

Each market is one task. It reads its bars from the lake itself, calls the functions that a single process calls
(`save_features`, `walk_forward`, `train`), and leaves what is large where the caller said; only a few numbers come
back. A task that is repeated, since its worker was killed, writes the same bytes under the same names, and the
caller alone publishes: each bundle once. What fails in one market is told at the end and costs no other one.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from mlkit.config import Settings, project_root
from mlkit.errors import ConfigError, LakeError, MlkitError, ScaleError
from mlkit.evaluation import RUN, Source, join_run

if TYPE_CHECKING:
    import pandas as pd

Work = Literal["features", "train", "evaluate"]
OUT = {"features": "data/features", "evaluate": "data/evaluations"}  # where results go, unless told otherwise
RETRIES = 2  # of a task that an object store or a bug stopped; a killed worker's are Dask's own
FORECASTS = "forecasts.parquet"


@dataclass(frozen=True)
class Outcome:
    """What became of one market."""

    symbol: str
    timeframe: str
    bars: int = 0
    place: str = ""  # what was written: a folder, a file, a bundle
    verdicts: dict[str, str] = field(default_factory=dict)  # per horizon, of a training or an evaluation
    scores: list[dict[str, Any]] = field(default_factory=list)  # rows of `score`, of an evaluation
    error: str = ""

    def __str__(self) -> str:
        told = ", ".join(f"{h}: {verdict}" for h, verdict in self.verdicts.items())
        done = f"{self.bars:,} bars, {self.place}" + (f" ({told})" if told else "")
        return f"{self.symbol} {self.timeframe}: {self.error or done}"


@dataclass(frozen=True)
class UniverseReport:
    """The outcomes of all markets, in the order asked for; prints one line a market."""

    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Markets that ended with an error."""
        return tuple(outcome for outcome in self.outcomes if outcome.error)

    @property
    def scores(self) -> "pd.DataFrame":
        """Of an evaluation: the rows of `score`, index (symbol, horizon)."""
        import pandas as pd

        rows = [{"symbol": outcome.symbol, **row} for outcome in self.outcomes for row in outcome.scores]
        return pd.DataFrame(rows).set_index(["symbol", "horizon"]) if rows else pd.DataFrame()

    def demand(self) -> None:
        """ScaleError, one line that names the markets that failed; nothing where none did."""
        if self.failed:
            named = "; ".join(map(str, self.failed[:3])) + ("; ..." if len(self.failed) > 3 else "")
            raise ScaleError(f"{len(self.failed)} of {len(self.outcomes)} markets failed: {named}")

    def __str__(self) -> str:
        return "\n".join(map(str, self.outcomes))

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{escape(str(outcome))}</td></tr>" for outcome in self.outcomes)
        return f"<table>{rows}</table>"


Watch = Callable[[Outcome, int, int], None]  # an outcome, how many there are now, and of how many


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
    """Do the same for every market of a universe.

    Parameters
    ----------
    work
        "features" writes what `save_features` does, "evaluate" the forecasts of `walk_forward` and their `score`,
        "train" what `mlkit.train` does: a published bundle a market.
    symbols, timeframe
        Each task loads its bars by name, see `mlkit.load_bars`.
    settings
        Lake, models, ledger, seed, profile, threads; its folders must be the same for all machines.
    client
        Of `mlkit.operations.scale.cluster.connect`; None does one market after the other in this process, with the same
        results to the bit.
    out
        Folder of features (a URL too) or evaluations; by default ``data/features``, ``data/evaluations``.
    watch
        Told each outcome as it comes.

    Returns
    -------
    The report. Faults of single markets are in it; its ``demand()`` raises them.

    Raises
    ------
    ConfigError for no symbols, or one named twice; ScaleError when the scheduler goes away.
    """
    if not symbols or len(set(symbols)) < len(symbols):
        raise ConfigError("a universe must name at least one symbol, and none twice")
    settings, place = settings or Settings(), out if out is not None else OUT.get(work, "")
    order = {
        "work": work,
        "timeframe": timeframe,
        "settings": _absolute(settings).model_dump(mode="json"),
        "out": place if isinstance(place, str) and "://" in place else str(project_root() / place),
        "run": RUN,
        "threads": _threads(),
    }
    found: dict[str, Outcome] = {}
    for outcome in _here(order, symbols) if client is None else _there(order, symbols, client):
        if work == "train" and not outcome.error:
            outcome = _published(outcome, settings)
        found[outcome.symbol] = outcome
        if watch:
            watch(outcome, len(found), len(symbols))
    return UniverseReport(tuple(found[symbol] for symbol in symbols))


def _absolute(settings: Settings) -> Settings:
    """The same settings, whatever a worker's working directory is."""
    return settings.model_copy(
        update={
            "training_data_path": settings.lake,
            "model_storage_path": settings.models,
            "ledger_path": settings.ledger,
            "pattern_weights_path": settings.pattern_weights,
        }
    )


def _here(order: dict[str, Any], symbols: Iterable[str]) -> Iterator[Outcome]:
    for symbol in symbols:
        try:
            yield do_market(order, symbol)
        except Exception as error:  # of one market: the others go on, and it is told at the end
            yield _failure(order, symbol, error)


def _there(order: dict[str, Any], symbols: Sequence[str], client: Any) -> Iterator[Outcome]:
    """Outcomes as workers finish them."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker, as_completed

    batch = uuid4().hex
    jobs = {
        client.submit(
            do_market, order, symbol, pure=False, retries=RETRIES, key=f"{order['work']}-{symbol}-{batch}"
        ): symbol
        for symbol in symbols
    }
    for job in as_completed(jobs, loop=client.loop):
        symbol = jobs[job]
        try:
            yield job.result()
        except KilledWorker:
            yield _failure(order, symbol, "killed its worker each time it was tried; give workers more memory")
        except (CancelledError, OSError) as error:
            if client.status == "running" and isinstance(error, OSError):
                yield _failure(order, symbol, error)
            else:
                raise ScaleError("the scheduler went away; what was done stays, run the command again") from error
        except Exception as error:  # of one market: the others go on, and it is told at the end
            yield _failure(order, symbol, error)
        job.release()


def do_market(order: dict[str, Any], symbol: str) -> Outcome:
    """One market, wherever it is done: the task of a worker. Faults of the market itself come back as its outcome."""
    join_run(order["run"])
    settings = Settings(**order["settings"])
    try:
        with _limited(order["threads"]):
            return _WORK[order["work"]](symbol, order["timeframe"], settings, order["out"])
    except LakeError:  # a store that was busy: worth another try
        raise
    except MlkitError as error:
        return _failure(order, symbol, error)


def _failure(order: dict[str, Any], symbol: str, error: Exception | str) -> Outcome:
    known = isinstance(error, MlkitError | str)
    told = " ".join(str(error).split()) if known else f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Outcome(symbol, order["timeframe"], error=told.removeprefix(f"{symbol} {order['timeframe']}: "))


def _features(symbol: str, timeframe: str, settings: Settings, out: str) -> Outcome:
    from mlkit.features import place_of, save_features
    from mlkit.market import load_bars

    receipt = save_features(load_bars(symbol, timeframe, settings=settings), out)
    return Outcome(symbol, timeframe, receipt["rows"], f"{out}/{place_of(symbol, timeframe)}")


def _evaluate(symbol: str, timeframe: str, settings: Settings, out: str) -> Outcome:
    from mlkit.config import write_atomic
    from mlkit.features import place_of
    from mlkit.market import load_bars, symbol_folder
    from mlkit.operations.tracking.tracking import tracked
    from mlkit.operations.training.scoring import fold_scores, score
    from mlkit.operations.training.training import walk_forward

    bars = load_bars(symbol, timeframe, settings=settings)
    name = f"{symbol_folder(symbol)}-{timeframe}"
    with tracked("evaluate", settings, name=name, sources=[Source.of(bars)]) as run:
        forecasts = walk_forward(bars, settings)
        table = score(forecasts, settings)
        if run.key is not None:
            run.folds(fold_scores(forecasts))
            run.scores(table)
    path = Path(out) / place_of(symbol, timeframe) / FORECASTS
    buffer = io.BytesIO()
    forecasts.to_parquet(buffer)
    write_atomic(path, buffer.getvalue())
    rows: list[Any] = table.reset_index().to_dict("records")
    verdicts = {str(row["horizon"]): str(row["verdict"]) for row in rows}
    return Outcome(symbol, timeframe, len(bars), str(path), verdicts, rows)


def _train(symbol: str, timeframe: str, settings: Settings, _: str) -> Outcome:
    from mlkit.market import load_bars
    from mlkit.operations.training.training import train

    bars = load_bars(symbol, timeframe, settings=settings)
    bundle = train(bars, settings, publish=False)
    metrics: Any = bundle.manifest.metrics
    verdicts = {str(h): str(metrics[str(h)].get("verdict")) for h in bundle.manifest.horizons}
    return Outcome(symbol, timeframe, len(bars), str(bundle.path), verdicts)


_WORK = {"features": _features, "evaluate": _evaluate, "train": _train}


def _published(outcome: Outcome, settings: Settings) -> Outcome:
    """The outcome of a training, its bundle made the current one by this process, the only one that publishes."""
    from dataclasses import replace

    from mlkit.models.bundle import ModelBundle, publish
    from mlkit.operations.retraining.champions import only_one
    from mlkit.operations.tracking.tracking import alias

    if not Path(outcome.place).is_dir():
        return replace(
            outcome,
            error=f"its worker wrote {outcome.place}, which is not seen here; models need a folder "
            "that all machines share (MLKIT_MODEL_STORAGE_PATH)",
        )
    try:
        bundle = ModelBundle.open(outcome.place)
        with only_one(bundle.path.parent):
            publish(bundle)
        alias(settings, bundle, "champion")
    except (MlkitError, OSError) as error:
        return replace(outcome, error=" ".join(str(error).split()))
    return outcome


def _threads() -> dict[str, int]:
    """Threads of this process's BLAS and OpenMP: a worker gets as many, as sums in other parts have other bits."""
    import numpy as np
    from threadpoolctl import threadpool_info

    np.dot(np.ones(2), np.ones(2))
    counts: dict[str, int] = {}
    for pool in threadpool_info():
        counts[pool["user_api"]] = max(int(pool["num_threads"]), counts.get(pool["user_api"], 1))
    return counts


@contextmanager
def _limited(threads: dict[str, int]) -> Iterator[None]:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=threads):
        yield
