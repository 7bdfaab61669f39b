"""The two small files of a bundle folder: ``manifest.json`` and ``CURRENT``.

A manifest is valid only as the bytes that :func:`render` writes, so that a changed blank, a repeated key or another
spelling of a number is detected. Its digest covers all of it, also what the bundle's id leaves out.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import to_json

from mlkit.errors import BundleError, ConfigError, NotTrainedError
from mlkit.market import ALWAYS_OPEN
from mlkit.untrusted import Digest, Line, printable, read_regular

SCHEMA_VERSION = 4  # of one market's bundle
POOL_SCHEMA = 5  # the same and ``pool``
MANIFEST = "manifest.json"
CURRENT = "CURRENT"

ID = r"[0-9a-f]{16}"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}(\.[A-Za-z0-9]{1,16}){1,2}"
_SMALL = 2**22  # bytes of a manifest or of CURRENT
FILE_LIMIT = 2**28  # bytes of a model file
_TOTAL_LIMIT = 2**30  # bytes of all


def _of_pandas(text: str) -> str:
    """Refuse a time that a pandas Timestamp of nanoseconds does not hold."""
    if not 1678 <= datetime.fromisoformat(text).year <= 2261:
        raise ValueError("not a time from 1678 to 2261")
    return text


_TIME = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})?)?$"
IsoTime = Annotated[str, StringConstraints(pattern=_TIME), AfterValidator(_of_pandas)]
_Horizon = Annotated[int, Field(ge=1, le=10**6)]
_Share = Annotated[float, Field(ge=0.0, le=1.0)]
# Horizon -> metrics out of sample and the verdict.
_Metrics = dict[
    Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,6}$")], dict[Line, bool | int | float | Line | None]
]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class FileRecord(_Strict):
    """Digest and size of one file."""

    sha256: Digest
    size: int = Field(ge=0, le=FILE_LIMIT)


class TrainingSpan(_Strict):
    """The bars a bundle was trained on: open times of the first and last, ISO 8601 UTC, and their number."""

    start: IsoTime
    end: IsoTime
    bars: int = Field(ge=0, lt=2**63)


class PoolMember(_Strict):
    """One of the markets that a bundle was trained on."""

    training_span: TrainingSpan
    garch: tuple[float, float, float]
    data_sha256: Digest
    calendar: Line = ALWAYS_OPEN  # trading calendar, left out where the market never closes
    metrics: _Metrics  # of this market alone


class PatternEvidence(_Strict):
    """Returns after a pattern on the training bars, over the horizon with the highest lower bound.

    A case is a bar at which the CNN detects the pattern. It is a hit when the price moves in the pattern's direction
    from the next open to the open ``horizon`` bars later. ``edge_bps`` is the mean of that return minus the market's
    mean return and a round trip; ``lower_bps`` is its lower bound, corrected for all patterns and horizons tested.
    """

    horizon: Annotated[int, Field(ge=1)]
    cases: Annotated[int, Field(ge=0)]
    hit_rate: _Share
    low: _Share  # 95 % interval of the hit rate
    high: _Share
    base_rate: _Share  # hit rate of the same directions at any bar
    edge_bps: float
    lower_bps: float
    verdict: Literal["edge", "no edge"]


class Manifest(_Strict):
    """Contents, training and scores of a bundle."""

    schema_version: Literal[4, 5]
    manifest_sha256: Digest  # of the manifest without this line
    bundle_id: Annotated[str, StringConstraints(pattern=f"^{ID}$")]
    created: Line  # ISO 8601 UTC; no part of bundle_id
    symbol: Line  # of a pool, its name
    timeframe: Line
    calendar: Line = ALWAYS_OPEN  # as of a member; of a pool see its members
    feature_names: tuple[Line, ...]  # in the order of the model's columns
    horizons: Annotated[tuple[_Horizon, ...], Field(max_length=1000)]
    training_span: TrainingSpan
    garch: tuple[float, float, float] | None = None  # omega, alpha, beta that the features filter with
    pool: dict[Line, PoolMember] = {}  # symbol -> what it was trained on; empty for one market
    data_sha256: Digest  # fingerprint of the training bars
    seed: int = Field(ge=0, lt=2**64)
    settings: dict[Line, JsonValue]
    library_versions: dict[Line, Line]
    metrics: _Metrics
    pattern_evidence: dict[Line, PatternEvidence] = {}  # pattern -> what followed it on the training bars
    files: dict[str, FileRecord]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.pool) != (self.schema_version == POOL_SCHEMA):
            raise ValueError(f"a bundle of several markets is of schema {POOL_SCHEMA}, and no other is")
        if self.pool and (len(self.pool) < 2 or self.garch is not None):
            raise ValueError("a pool has several markets, each with its own garch")
        if len(set(self.feature_names)) != len(self.feature_names):
            raise ValueError("feature names repeat")
        if list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError("horizons must increase")
        for name in self.files:
            if not re.fullmatch(_NAME, name) or name == MANIFEST:
                raise ValueError(f"{name[:80]!r} is not a plain file name")
        if len({name.lower() for name in self.files}) < len(self.files):
            raise ValueError("file names differ in case only")
        if not self.files:
            raise ValueError("a bundle without model files")
        if sum(record.size for record in self.files.values()) > _TOTAL_LIMIT:
            raise ValueError(f"files of more than {_TOTAL_LIMIT} bytes")
        return self

    @property
    def symbols(self) -> tuple[str, ...]:
        """The markets that it was trained on."""
        return tuple(sorted(self.pool)) or (self.symbol,)

    def check_calendar(self, symbol: str, calendar: str) -> None:
        """ConfigError for bars of another calendar than those of this market, or of all markets, in the training."""
        member = self.pool.get(symbol)
        trained = {one.calendar for one in ([member] if member else self.pool.values())} or {self.calendar}
        if calendar not in trained:
            raise ConfigError(
                f"{symbol}: the bars have the calendar {calendar}, bundle {self.bundle_id} was trained on "
                f"{', '.join(sorted(trained))}; pass calendar={min(trained)!r} where the bars are read, or train again"
            )

    def garch_of(self, symbol: str) -> tuple[float, float, float] | None:
        """GARCH parameters for the features of a market; None, the default, for a market outside the pool."""
        member = self.pool.get(symbol)
        return self.garch if member is None else member.garch


def describe(fields: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[Manifest, bytes]:
    """The manifest of these fields and files, and its bytes; ConfigError if a field is missing, unknown or wrong."""
    # JSON values: NaN becomes null, a numpy scalar a number.
    described = json.loads(to_json(dict(fields), inf_nan_mode="null", fallback=np.generic.item))
    for market in (described, *(described.get("pool") or {}).values()):
        if market.get("calendar") == ALWAYS_OPEN:  # the default is left out, so that such bundles keep their ids
            del market["calendar"]
    described["library_versions"] = _versions()
    described["schema_version"] = POOL_SCHEMA if described.get("pool") else SCHEMA_VERSION
    described["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in sorted(files.items())
    }
    described = signed(described)
    try:
        manifest = Manifest.model_validate(described)
    except ValidationError as error:
        raise ConfigError(f"bundle manifest: {_first_fault(error)}") from error
    return manifest, render(described)


def signed(described: Mapping[str, Any]) -> dict[str, Any]:
    """The same description with its identifier and its digest, which detect damage but do not prove an author."""
    content = {key: value for key, value in described.items() if key not in ("bundle_id", "manifest_sha256")}
    content["bundle_id"] = _content_id(content)
    return content | {"manifest_sha256": hashlib.sha256(render(content)).hexdigest()}


def render(described: Mapping[str, Any]) -> bytes:
    """The only valid bytes of a manifest."""
    return json.dumps(described, indent=1, sort_keys=True, allow_nan=False).encode("ascii")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, its digests checked; BundleError if it is damaged or of another schema."""
    data = read_plain(folder / MANIFEST, None)
    try:
        described = json.loads(data)
        schema = described["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(folder, f"{MANIFEST} is not a manifest") from error
    if not isinstance(schema, int) or schema not in (SCHEMA_VERSION, POOL_SCHEMA):
        raise BundleError(
            f"bundle {folder}: schema {repr(schema)[:40]}, this mlkit reads {SCHEMA_VERSION} and {POOL_SCHEMA}; train"
            " again or install the mlkit that wrote it"
        )
    try:
        whole = render(described) == data and signed(described) == described
        manifest = Manifest.model_validate(described) if whole else None
    except ValidationError as error:
        raise damaged(folder, f"{MANIFEST}: {_first_fault(error)}") from error
    except (ValueError, RecursionError) as error:
        raise damaged(folder, f"{MANIFEST} is not a manifest") from error
    if manifest is None:
        raise damaged(folder, f"{MANIFEST} was changed (its digest differs)")
    return manifest


def read_current(root: Path) -> list[str]:
    """Ids of the bundles that were published in a root, the current one first.

    Raises
    ------
    NotTrainedError
        Nothing has been published there.
    BundleError
        ``CURRENT`` does not hold ids.
    """
    if not (root / CURRENT).is_file():
        raise NotTrainedError(f"no published model in {root}: run mlkit train, or name a bundle directory")
    text = read_plain(root / CURRENT, None).decode("ascii", errors="replace")
    if not re.fullmatch(rf"({ID}\n)+", text):
        raise BundleError(f"{root / CURRENT}: {text[:40]!r} is not a bundle id; publish a bundle again")
    return text.split()


def read_plain(path: Path, size: int | None) -> bytes:
    """Content of a regular file of the expected size, or of a small one; never follows a link."""
    try:
        data = read_regular(path, _SMALL if size is None else size)
    except OSError as error:
        raise damaged(path.parent, f"{path.name} cannot be read ({error.strerror})") from error
    if size is not None and len(data) != size:
        raise damaged(path.parent, f"{path.name} has {len(data)} bytes, {size} were written")
    return data


def damaged(path: Path, what: str) -> BundleError:
    """The error of a bundle that differs from what was written, on one line whatever names it holds."""
    if not path.is_dir():
        return BundleError(
            f"bundle {path}: was deleted meanwhile, since only the newest of a market stay; open the current one"
        )
    return BundleError(f"bundle {path}: {printable(what)}; delete it and train again")


def _content_id(described: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of everything described, file digests included, except ``created``."""
    apart = ("created", "bundle_id", "manifest_sha256")
    content = {key: value for key, value in described.items() if key not in apart}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    """Installed versions of the libraries that the numbers depend on."""
    from mlkit.models.ensemble.learners import DISTRIBUTIONS  # here, as reading a manifest needs no numba

    found = {}
    for name in ("mlkit", "numpy", "pandas", "numba", *DISTRIBUTIONS, "torch"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, fault["loc"]))[:120]
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])
