"""A model is an immutable directory: a manifest, the model files, and a name made from their content.

    <root>/CURRENT               ids of the published bundles, the current one first; replaced atomically
    <root>/<bundle_id>/          written under another name, synced, then renamed
        manifest.json            what it was trained on and with; SHA-256 and size of every other file
        xgb_<h>.npz  xgb_<h>.ubj  lgb_<h>.npz  lgb_<h>.txt  rf_<h>.npz  calibration.json  cnn.safetensors  ...

Nothing is pickled. ``ModelBundle.open`` checks every byte against the manifest before anything else is read.
Digests detect damage, not a bad author: for bundles from others see ``mlkit/models/README.md``.
"""

import hashlib
import html
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from mlkit.config import fsync_folder, write_atomic
from mlkit.errors import BundleError
from mlkit.models.bundle.manifest import (
    CURRENT,
    MANIFEST,
    Manifest,
    damaged,
    describe,
    read_current,
    read_manifest,
    read_plain,
)
from mlkit.models.ensemble.learners import LEARNERS
from mlkit.models.ensemble.price_predictor import CALIBRATION_FILE, PricePredictor

CNN_FILE = "cnn.safetensors"
DRAFT = ".bundle-"  # prefix of folders that are being written or deleted
_PRICE_FILES = (CALIBRATION_FILE, *(f"{learner.prefix}_" for learner in LEARNERS.values()))


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
        if (path / MANIFEST).is_file():
            return cls._verified(path)
        name = read_current(path)[0]
        while True:
            try:
                return cls._published(path, name)
            except BundleError:
                newer = read_current(path)[0]
                # Published and pruned meanwhile: the bundle is not damaged, another one is current.
                if newer == name:
                    raise
                name = newer

    @classmethod
    def _published(cls, root: Path, name: str) -> Self:
        if not (root / name / MANIFEST).is_file():
            raise BundleError(f"{root / CURRENT}: names {name}, which is not there; publish a bundle again")
        bundle = cls._verified(root / name)
        if bundle.id != name:
            raise damaged(bundle.path, f"holds bundle {bundle.id}")
        return bundle

    @classmethod
    def _verified(cls, path: Path) -> Self:
        bundle = cls(path, read_manifest(path))
        bundle.verify()
        return bundle

    @classmethod
    def write(cls, root: Path | str, fields: Mapping[str, Any], **parts: Any) -> "ModelBundle":
        """:func:`write_bundle`."""
        return write_bundle(root, fields, **parts)

    @property
    def id(self) -> str:
        """Digest of the content, which is also the name of the folder."""
        return self.manifest.bundle_id

    def verify(self) -> None:
        """Check names, kinds, sizes and digests against the manifest; BundleError if anything differs."""
        try:
            found = {entry.name for entry in self.path.iterdir()} - {MANIFEST}
        except OSError as error:
            raise damaged(self.path, f"cannot be listed ({error.strerror})") from error
        for name in sorted(self.manifest.files.keys() - found):
            raise damaged(self.path, f"{name} is missing")
        for name in sorted(found - self.manifest.files.keys()):
            raise damaged(self.path, f"{name} does not belong there")
        for name in self.manifest.files:
            self.read(name)

    def read(self, name: str) -> bytes:
        """Content of one file, checked against the manifest; BundleError if it differs."""
        record = self.manifest.files.get(name)
        if record is None:
            raise BundleError(f"bundle {self.path}: holds no {name}, only {', '.join(self.manifest.files)}")
        data = read_plain(self.path / name, record.size)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise damaged(self.path, f"{name} is not what was written (SHA-256 differs)")
        return data

    @cached_property
    def price(self) -> PricePredictor | None:
        """The price ensemble, loaded from verified bytes on first use; None if the bundle has none."""
        if CALIBRATION_FILE not in self.manifest.files:
            return None
        names = [name for name in self.manifest.files if name.startswith(_PRICE_FILES)]
        model = PricePredictor.from_bytes({name: self.read(name) for name in names})
        if model.horizons != self.manifest.horizons or model.n_features != len(self.manifest.feature_names):
            raise damaged(self.path, "models and manifest disagree on horizons or features")
        return model

    @property
    def cnn_file(self) -> bytes | None:
        """The pattern CNN's safetensors file, checked against the manifest; None if the bundle has none."""
        return self.read(CNN_FILE) if CNN_FILE in self.manifest.files else None

    def _repr_html_(self) -> str:
        m = self.manifest
        rows = {
            "bundle": m.bundle_id,
            "market": f"{m.symbol} {m.timeframe}" + (f", {len(m.pool)} markets" if m.pool else ""),
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

    The same content always has the same id, whatever ``created``: a bundle that is already there is kept, unless it is
    damaged; then it is written anew. A field that is missing, unknown or of the wrong kind is a ConfigError.
    """
    root = Path(root)
    files = dict(extra or {})
    if price is not None:
        files |= price.to_bytes()
    if cnn_file is not None:
        files[CNN_FILE] = cnn_file if isinstance(cnn_file, bytes) else cnn_file.read_bytes()
    manifest, text = describe(fields, files)
    target = root / manifest.bundle_id
    if target.exists():
        try:
            return ModelBundle.open(target)
        except BundleError:
            remove_folder(target)
    _write_folder(target, files | {MANIFEST: text})
    return ModelBundle.open(target)


def remove_folder(folder: Path) -> None:
    """Delete a bundle. It is renamed first, so that half a bundle never stands under its id."""
    doomed = Path(tempfile.mkdtemp(dir=folder.parent, prefix=DRAFT))
    folder.rename(doomed / folder.name)
    shutil.rmtree(doomed)
    fsync_folder(folder.parent)


def _write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write files under another name, sync them, and rename the folder to ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=DRAFT))
    try:
        for name, data in files.items():
            write_atomic(draft / name, data)
        draft.chmod(0o755)
        draft.rename(target)
    except OSError:
        if not target.is_dir():  # else another process has just written the same content
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    fsync_folder(target.parent)
