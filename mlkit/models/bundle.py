"""A model is an immutable directory: a manifest, the model files, and a name made from their content.

    <root>/CURRENT               id of the published bundle, replaced atomically
    <root>/<bundle_id>/          written under another name, synced, then renamed
        manifest.json            what it was trained on and with; SHA-256 and size of every other file
        xgb_<h>.ubj  lgb_<h>.txt  rf_<h>.npz  calibration.json  cnn.safetensors  ...

Nothing is pickled. ``ModelBundle.open`` checks every byte against the manifest before any library reads it,
since XGBoost and LightGBM crash the process on damaged files. Digests prove that a bundle is whole, not who
made it: open bundles from people you trust.
"""

import hashlib
import html
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from mlkit.config import fsync_folder, write_atomic
from mlkit.errors import BundleError, ConfigError, NotTrainedError
from mlkit.models.price_predictor import CALIBRATION_FILE, PricePredictor

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
CURRENT = "CURRENT"
CNN_FILE = "cnn.safetensors"
_PRICE_FILES = (CALIBRATION_FILE, "xgb_", "lgb_", "rf_")

_ID = r"[0-9a-f]{16}"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}(\.[A-Za-z0-9]{1,16}){1,2}"
_MANIFEST_LIMIT = 16 * 2**20  # bytes
_LIBRARIES = (
    "mlkit",
    "numpy",
    "pandas",
    "numba",
    "scikit-learn",
    "xgboost",
    "xgboost-cpu",
    "lightgbm",
    "torch",
)

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class FileRecord(_Strict):
    """Digest and size of one file."""

    sha256: Digest
    size: int = Field(ge=0)


class TrainingSpan(_Strict):
    """The bars a bundle was trained on: open times of the first and last, ISO 8601 UTC, and their number."""

    start: str
    end: str
    bars: int = Field(ge=0)


class Manifest(_Strict):
    """What a bundle says about itself."""

    schema_version: Literal[1]
    bundle_id: Annotated[str, StringConstraints(pattern=f"^{_ID}$")]
    created: str  # ISO 8601 UTC; the one field that is no part of bundle_id
    symbol: str
    timeframe: str
    feature_names: tuple[str, ...]  # in the order of the model's columns
    horizons: tuple[Annotated[int, Field(ge=1)], ...]
    training_span: TrainingSpan
    garch: tuple[float, float, float] | None = None  # omega, alpha, beta that the features filter with
    data_sha256: Digest  # fingerprint of the training bars
    seed: int
    settings: dict[str, JsonValue]
    library_versions: dict[str, str]
    metrics: dict[str, JsonValue]
    files: dict[str, FileRecord]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.feature_names)) != len(self.feature_names):
            raise ValueError("feature names repeat")
        if list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError("horizons must increase")
        for name in self.files:
            if not re.fullmatch(_NAME, name) or name == MANIFEST:
                raise ValueError(f"{name!r} is not a plain file name")
        if not self.files:
            raise ValueError("a bundle without model files")
        return self


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """A verified bundle on disk. ``open`` one, or ``write`` one; models load when first asked for."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a bundle directory, or the one that ``CURRENT`` names in a root, and verify every file.

        Raises
        ------
        NotTrainedError
            Nothing has been published there.
        BundleError
            Damaged, incomplete, foreign or of another schema.
        """
        path = Path(path)
        published = not (path / MANIFEST).is_file()
        path = _current(path) if published else path
        bundle = cls(path, _read_manifest(path))
        if published and bundle.id != path.name:
            raise _damaged(path, f"holds bundle {bundle.id}")
        bundle.verify()
        return bundle

    @classmethod
    def write(cls, root: Path | str, fields: Mapping[str, Any], **parts: Any) -> "ModelBundle":
        """The function :func:`write_bundle`."""
        return write_bundle(root, fields, **parts)

    @property
    def id(self) -> str:
        """Content digest that names the bundle."""
        return self.manifest.bundle_id

    def verify(self) -> None:
        """Check names, kinds, sizes and digests against the manifest; BundleError if anything differs."""
        found = {entry.name for entry in self.path.iterdir()} - {MANIFEST}
        missing, extra = (
            sorted(self.manifest.files.keys() - found),
            sorted(found - self.manifest.files.keys()),
        )
        if missing or extra:
            what = f"{missing[0]} is missing" if missing else f"{extra[0]} does not belong there"
            raise _damaged(self.path, what)
        for name in self.manifest.files:
            self.read(name)

    def read(self, name: str) -> bytes:
        """Content of one file, checked against the manifest; BundleError if it differs."""
        record = self.manifest.files.get(name)
        if record is None:
            raise BundleError(f"bundle {self.path}: holds no {name}, only {', '.join(self.manifest.files)}")
        data = _read_plain(self.path / name, record.size)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise _damaged(self.path, f"{name} is not what was written (SHA-256 differs)")
        return data

    @cached_property
    def price(self) -> PricePredictor | None:
        """The price ensemble, loaded from verified bytes on first use; None if the bundle has none."""
        if CALIBRATION_FILE not in self.manifest.files:
            return None
        names = [name for name in self.manifest.files if name.startswith(_PRICE_FILES)]
        model = PricePredictor.from_bytes({name: self.read(name) for name in names})
        if model.horizons != self.manifest.horizons or model.n_features != len(self.manifest.feature_names):
            raise _damaged(self.path, "models and manifest disagree on horizons or features")
        return model

    @property
    def cnn_path(self) -> Path | None:
        """The pattern CNN's weights, verified again; None if the bundle has none."""
        if CNN_FILE not in self.manifest.files:
            return None
        self.read(CNN_FILE)
        return self.path / CNN_FILE

    def _repr_html_(self) -> str:
        m = self.manifest
        rows = {
            "bundle": m.bundle_id,
            "market": f"{m.symbol} {m.timeframe}",
            "training": f"{m.training_span.start} to {m.training_span.end}, {m.training_span.bars:,} bars",
            "horizons": ", ".join(map(str, m.horizons)),
            "features": str(len(m.feature_names)),
            "files": f"{len(m.files)}, {sum(f.size for f in m.files.values()) / 1024:,.0f} KiB",
            "created": m.created,
        }
        cells = "".join(f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>" for key, value in rows.items())
        return f"<table>{cells}</table>"


def write_bundle(
    root: Path | str,
    fields: Mapping[str, Any],
    *,
    price: PricePredictor | None = None,
    cnn_file: Path | bytes | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> ModelBundle:
    """Write an immutable bundle into ``root``; it is not published yet.

    Parameters
    ----------
    root
        Folder of all bundles.
    fields
        Of :class:`Manifest`: ``created, symbol, timeframe, feature_names, horizons, training_span,
        data_sha256, seed, settings, metrics``. NaN becomes null. Identifier, library versions and file
        records are added here.
    price, cnn_file, extra
        The price ensemble; the CNN's safetensors, as a path or its bytes; further files by plain name, such
        as a drift reference. At least one of them.

    The same content always has the same id, whatever ``created``: what is already there is kept. A field
    that is missing, unknown or of the wrong kind is a ConfigError.
    """
    root = Path(root)
    files = dict(extra or {})
    if price is not None:
        files |= price.to_bytes()
    if cnn_file is not None:
        files[CNN_FILE] = cnn_file if isinstance(cnn_file, bytes) else cnn_file.read_bytes()
    described = _plain(dict(fields)) | {"schema_version": SCHEMA_VERSION, "library_versions": _versions()}
    described["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in sorted(files.items())
    }
    described["bundle_id"] = _content_id(described)
    try:
        manifest = Manifest.model_validate(described)
    except ValidationError as error:
        raise ConfigError(f"bundle manifest: {_first_fault(error)}") from error
    target = root / manifest.bundle_id
    if not target.exists():
        text = json.dumps(described, indent=1, sort_keys=True, allow_nan=False)
        _write_folder(target, files | {MANIFEST: text.encode()})
    return ModelBundle.open(target)


def publish(bundle: ModelBundle) -> None:
    """Make a bundle the current one of its root: verify it, then replace ``CURRENT`` atomically."""
    bundle.verify()
    if bundle.path.name != bundle.id:
        raise BundleError(f"bundle {bundle.path}: only {bundle.id} in a root can be published; do not rename it")
    write_atomic(bundle.path.parent / CURRENT, f"{bundle.id}\n".encode())


def _write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write files under another name, sync them, and rename the folder to ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".bundle-"))
    try:
        for name, data in files.items():
            write_atomic(draft / name, data)
        draft.chmod(0o755)
        draft.rename(target)
    except OSError:
        if not target.is_dir():  # else someone else has just written the same content
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    fsync_folder(target.parent)


def _current(root: Path) -> Path:
    """The directory that ``CURRENT`` names."""
    if not (root / CURRENT).is_file():
        raise NotTrainedError(f"no published model in {root}: run mlkit train, or name a bundle directory")
    name = _read_plain(root / CURRENT, None).decode("ascii", errors="replace").strip()
    if not re.fullmatch(_ID, name):
        raise BundleError(f"{root / CURRENT}: {name[:40]!r} is not a bundle id; publish a bundle again")
    if not (root / name / MANIFEST).is_file():
        raise BundleError(f"{root / CURRENT}: names {name}, which is not there; publish a bundle again")
    return root / name


def _read_manifest(path: Path) -> Manifest:
    try:
        described = json.loads(_read_plain(path / MANIFEST, None))
        schema = described["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"{MANIFEST} is not a manifest") from error
    if schema != SCHEMA_VERSION:
        raise BundleError(
            f"bundle {path}: schema {schema!r}, this mlkit reads {SCHEMA_VERSION}; train again or install the"
            " mlkit that wrote it"
        )
    try:
        manifest = Manifest.model_validate(described)
    except ValidationError as error:
        raise _damaged(path, f"{MANIFEST}: {_first_fault(error)}") from error
    if _content_id(described) != manifest.bundle_id:
        raise _damaged(path, f"{MANIFEST} was changed (its digest differs)")
    return manifest


def _read_plain(path: Path, size: int | None) -> bytes:
    """Content of a regular file of the expected size; never follows a link."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise _damaged(path.parent, f"{path.name} cannot be read ({error.strerror})") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise _damaged(path.parent, f"{path.name} is not a regular file")
    with os.fdopen(handle, "rb") as file:
        if size is not None and status.st_size != size:
            raise _damaged(path.parent, f"{path.name} has {status.st_size} bytes, {size} were written")
        if size is None and status.st_size > _MANIFEST_LIMIT:
            raise _damaged(path.parent, f"{path.name} is too long ({status.st_size} bytes)")
        return file.read()


def _content_id(described: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of all that is described, file digests included, but ``created``."""
    content = {key: value for key, value in described.items() if key not in ("created", "bundle_id")}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """JSON values of nested dicts, sequences, numpy scalars, times and paths; NaN becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, fault["loc"]))
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])


def _damaged(path: Path, what: str) -> BundleError:
    return BundleError(f"bundle {path}: {what}; delete it and train again")
