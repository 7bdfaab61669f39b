"""Bundles back from the model registry: plain files, checked as a stranger's are before anyone uses them."""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mlkit.config import Settings, fsync_folder
from mlkit.errors import BundleError, ConfigError, NotTrainedError, TrackingError
from mlkit.models.bundle import DRAFT, FILE_LIMIT, ID, MANIFEST, POOLS, ModelBundle, inspect_bundle
from mlkit.operations.tracking.mlflow_store import BUNDLE, Store, status_of
from mlkit.operations.tracking.tracking import POOL, Alias, model_name

SECONDS = 600.0  # that a download may take
_FILES = 100  # of a bundle
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9%._-]{0,199}", re.ASCII)


def fetch_bundle(
    settings: Settings, model: str, alias: Alias = "champion", root: Path | str | None = None
) -> ModelBundle:
    """The bundle that an alias of a registered model points at, copied into ``root`` unless it is there already.

    Parameters
    ----------
    model : name in the registry, such as ``SP500-1d``
    alias : ``champion`` or ``challenger``
    root : folder of bundles; by default the market's own

    Returns
    -------
    The bundle, every byte checked against its manifest and its models read by another process
    (`mlkit.models.bundle.inspection`). It is not published.

    Raises
    ------
    ConfigError for what is no name. NotTrainedError where no version has the alias. BundleError where what was
    registered is damaged, foreign, or not what the registry says. TrackingError, DependencyError where MLflow does not
    answer or is not installed.
    """
    root = Path(root) if root is not None else _root(settings, model)
    store = Store.default()
    version = store.ask(lambda client: _version(client, model, alias), SECONDS)
    bundle, run, folder = _source(store, model, version)
    target = root / bundle
    if target.is_dir():
        try:
            return ModelBundle.open(target)
        except BundleError:
            pass  # it is written anew
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=root, prefix=DRAFT))
    try:
        store.ask(lambda client: _download(client, run, folder, draft / bundle), SECONDS)
        inspect_bundle(draft / bundle)
        manifest = ModelBundle.open(draft / bundle)
        if manifest.id != bundle or model_name(manifest) != model:
            raise BundleError(
                f"{store}: version {version.version} of {model} is said to be {bundle}, and is {manifest.id} of "
                f"{model_name(manifest)}; register it again"
            )
        (draft / bundle).chmod(0o755)
        if target.is_dir():
            target.rename(draft / "damaged")
        (draft / bundle).rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    fsync_folder(root)
    return ModelBundle.open(target)


def _root(settings: Settings, model: str) -> Path:
    """Folder of the bundles of a registered model."""
    name = model.removeprefix(POOL)
    if not _FOLDER.fullmatch(name):
        raise ConfigError(f"{model!r} is not the name of a registered market or pool, such as SP500-1d")
    return settings.models / POOLS / name if model.startswith(POOL) else settings.models / name


def _version(client: Any, model: str, alias: str) -> Any:
    """The registered version of an alias; None where there is none."""
    try:
        return client.get_model_version_by_alias(model, alias)
    except Exception as error:
        if status_of(error) in (400, 404):
            return None
        raise


def _source(store: Store, model: str, version: Any) -> tuple[str, str, str]:
    """Bundle id, run and folder of a version."""
    if version is None:
        raise NotTrainedError(f"{store}: no version of {model} has that alias; see the registry, or run mlkit train")
    bundle = str(version.tags.get(BUNDLE, ""))
    run, _, folder = str(version.source).removeprefix("runs:/").partition("/")
    if not str(version.source).startswith("runs:/") or not re.fullmatch(ID, bundle) or not folder:
        raise BundleError(f"{store}: version {version.version} of {model} was not registered by mlkit; train again")
    return bundle, run, folder


def _download(client: Any, run: str, folder: str, into: Path) -> None:
    """The files of a folder of artifacts, none of them with a path, none too long."""
    found = client.list_artifacts(run, folder)
    names = {str(file.path).rpartition("/")[2]: file for file in found}
    if MANIFEST not in names or len(found) > _FILES:
        raise TrackingError(f"run {run}: {folder} holds no bundle")
    for name, file in names.items():
        if file.is_dir or not _NAME.fullmatch(name) or (file.file_size or 0) > FILE_LIMIT:
            raise TrackingError(f"run {run}: {name[:80]!r} does not belong into a bundle")
    into.mkdir()
    incoming = into.with_name("incoming")
    incoming.mkdir()
    for name, file in names.items():
        shutil.move(client.download_artifacts(run, file.path, str(incoming)), into / name)
