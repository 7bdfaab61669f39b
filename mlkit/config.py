"""Settings, and how every layer writes files."""

import hashlib
import os
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mlkit.errors import DependencyError

_WRITE = 1 << 24  # bytes of one write call
# Settings that do not change what a model predicts: folders, tracking, and when to check and retrain.
_NOT_OF_A_MODEL = {
    "model_storage_path",
    "training_data_path",
    "ledger_path",
    "pattern_weights_path",
    "tuning_storage",
    "tracking",
    "retrain_age",
    "retrain_new_bars",
    "retrain_rows",
    "retrain_keep",
    "drift_level",
}


def project_root() -> Path:
    """Folder that relative paths start from.

    ``MLKIT_HOME`` if set; else the nearest folder at or above the working directory that holds
    ``pyproject.toml`` and ``notebooks/``; else the working directory. So notebooks, tests and the
    command line all use the same ``data/``.
    """
    home = os.environ.get("MLKIT_HOME")
    if home:
        return Path(home).expanduser().resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return here


def sqlite_url(path: Path) -> str:
    """URL of a SQLite file for MLflow and Optuna; characters such as ``?`` and ``%`` in the path are quoted."""
    try:
        from sqlalchemy import URL
    except ImportError as error:
        raise DependencyError("SQLAlchemy is not installed: pip install 'mlkit[track]'") from error
    return URL.create("sqlite", database=str(path)).render_as_string()


class Settings(BaseSettings):
    """The settings of mlkit, frozen; every field can be set as ``MLKIT_<FIELD>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="MLKIT_", frozen=True, extra="forbid", protected_namespaces=())

    model_storage_path: Path = Path("data/models")
    ledger_path: Path = Path("data/ledger.jsonl")  # every fit is written here
    tuning_storage: str | None = None  # URL of the Optuna storage; None: the SQLite file data/optuna.db
    training_data_path: Path | str = Path("data/bars")  # or the URL of an object store, such as s3://bucket/bars
    pattern_weights_path: Path | None = None  # folder of pattern CNN weights to use instead of the shipped ones
    pattern_sequence_length: int = 20  # bars in one window of the pattern CNN, which has no other length
    pattern_num_classes: int = 15  # patterns of the pattern CNN
    prediction_horizons: Annotated[tuple[int, ...], NoDecode] = (1, 5, 15, 60)  # bars ahead
    ml_cache_ttl: int = 30  # seconds an insight may be served from cache
    min_confidence_threshold: float = Field(0.5, ge=0.0, le=1.0)
    xgboost_weight: float = Field(0.4, ge=0.0)
    lightgbm_weight: float = Field(0.4, ge=0.0)
    random_forest_weight: float = Field(0.2, ge=0.0)
    learner_weights: dict[str, Annotated[float, Field(ge=0.0)]] = {}  # of further learners of the ensemble
    seed: int = Field(7, ge=0)
    profile: Literal["smoke", "full"] = "smoke"  # smoke: seconds; full: the whole training
    n_threads: int = Field(2, ge=1)
    cost_bps: float = Field(1.0, ge=0.0)  # one-way trading cost, basis points
    drift_level: float = Field(0.01, gt=0.0, lt=1.0)  # probability of a false alarm at one check for drift
    retrain_age: float = Field(0.1, gt=0.0)  # due when the model is older than this share of its training span
    retrain_new_bars: float = Field(0.05, gt=0.0)  # due when so many bars are new, as a share of its training bars
    retrain_rows: int = Field(200, ge=60)  # fewest later bars on which champion and challenger are compared
    retrain_keep: int = Field(3, ge=2)  # published bundles of a market that stay
    tracking: bool | None = None  # runs go to MLflow; None: those of the commands and of the full profile

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every learner of the ensemble by name; a learner of weight 0 is not trained."""
        named = {"xgboost": self.xgboost_weight, "lightgbm": self.lightgbm_weight}
        return named | {"random_forest": self.random_forest_weight} | self.learner_weights

    def chosen(self) -> dict[str, Any]:
        """The settings that decide what a model predicts, as plain JSON values."""
        return self.model_dump(mode="json", exclude=_NOT_OF_A_MODEL)

    @property
    def models(self) -> Path:
        """Absolute folder of the model bundles."""
        return project_root() / self.model_storage_path

    @property
    def pattern_weights(self) -> Path | None:
        """Absolute folder of the pattern CNN's weights; None for the shipped ones."""
        return None if self.pattern_weights_path is None else project_root() / self.pattern_weights_path

    @field_validator("prediction_horizons", mode="before")
    @classmethod
    def _horizons(cls, value: Any) -> Any:
        """Whole numbers of bars, ascending; text as 1,5 or [1, 5]."""
        parts = value.strip().strip("[]()").split(",") if isinstance(value, str) else value
        parts = [parts] if isinstance(parts, int) else parts
        try:
            horizons = tuple(int(part) for part in parts)
            whole = list(horizons) == [float(part) for part in parts]
        except (TypeError, ValueError):
            horizons, whole = (), False
        if not whole or not horizons or horizons[0] < 1 or any(a >= b for a, b in pairwise(horizons)):
            raise ValueError("want whole numbers of bars, at least 1, ascending and none twice, such as 1,5,15,60")
        return horizons

    @field_validator("learner_weights")
    @classmethod
    def _further(cls, value: dict[str, float]) -> dict[str, float]:
        own = sorted(value.keys() & {"xgboost", "lightgbm", "random_forest"})
        if own:
            raise ValueError(f"{own[0]} has a setting of its own: {own[0]}_weight")
        return value

    @field_validator("training_data_path")
    @classmethod
    def _path_or_url(cls, value: Path | str) -> Path | str:
        """Keep text with ``://`` as a URL: a Path would drop one of its slashes."""
        return value if isinstance(value, str) and "://" in value else Path(value).expanduser()

    @field_validator("model_storage_path", "ledger_path", "pattern_weights_path")
    @classmethod
    def _home(cls, value: Path | None) -> Path | None:
        """The home folder for a leading ``~``, as a shell would write it."""
        return None if value is None else value.expanduser()

    @field_validator("pattern_sequence_length", "pattern_num_classes")
    @classmethod
    def _of_the_cnn(cls, value: int, info: ValidationInfo) -> int:
        """The shape of the pattern CNN is that of its weights: refuse a value that would change nothing."""
        built = cls.model_fields[str(info.field_name)].default
        if value != built:
            raise ValueError(f"the pattern CNN is built for {built}; leave this setting out")
        return value

    @property
    def ledger(self) -> Path:
        """Absolute file of the trial ledger."""
        return project_root() / self.ledger_path

    @property
    def studies(self) -> str:
        """URL of the Optuna storage that holds the tuning studies."""
        return self.tuning_storage or sqlite_url(project_root() / "data" / "optuna.db")

    @property
    def lake(self) -> Path | str:
        """Absolute folder of the bar files, or their URL."""
        lake = self.training_data_path
        return lake if isinstance(lake, str) else project_root() / lake


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file in one step (temporary file, fsync, rename): a reader sees the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        try:
            write_all(handle, data)
            os.fchmod(handle, 0o644)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_all(handle: int, data: bytes) -> None:
    """Write every byte to an open file; a short write is continued."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest[:_WRITE]) :]


def fsync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
