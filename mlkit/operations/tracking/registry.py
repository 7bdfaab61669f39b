"""Bundles in MLflow's model registry: registered as versions with aliases, and copied back as plain files.

A copied bundle is checked against its manifest, and its models are read by another process, before it is used.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from mlkit.config import Settings, fsync_folder
from mlkit.errors import BundleError, ConfigError, NotTrainedError, TrackingError
from mlkit.market import symbol_folder
from mlkit.models.bundle import DRAFT, FILE_LIMIT, ID, MANIFEST, POOLS, ModelBundle, inspect_bundle
from mlkit.operations.tracking.mlflow_store import MlflowStore, status_of
from mlkit.untrusted import without_password

Alias = Literal["champion", "challenger"]
POOL = "pool@"  # prefix of a pool's registered model; no folder of a market has this character in its name
BUNDLE = "mlkit.bundle"  # tag of a registered version: id of the bundle
DOWNLOAD_SECONDS = 600.0
_MOST_FILES = 100  # of a bundle
_SERVED = ("mlflow-artifacts:", "http:", "https:")
# Where a server may say that files are: none of these is on this machine.
_REMOTE = ("mlflow-artifacts", "http", "https", "s3", "gs", "wasbs", "abfss")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
_MARKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9%._-]{0,199}", re.ASCII)


def model_name(bundle: ModelBundle) -> str:
    """Name of the registered model of a bundle: ``SP500-1d`` of a market, ``pool@<name>-1d`` of a pool of markets."""
    manifest = bundle.manifest
    return f"{POOL if manifest.pool else ''}{symbol_folder(manifest.symbol)}-{manifest.timeframe}"


def register_bundle(client: Any, run: str, bundle: ModelBundle, alias: Alias | None) -> None:
    """Store the files of a bundle as artifacts of a run, and register them as a version of its market's model.

    A bundle that is registered already is not stored again.
    """
    model, version = model_name(bundle), _registered(client, bundle)
    if version is None:
        folder = f"bundles/{bundle.id}"
        for name in (MANIFEST, *bundle.manifest.files):
            client.log_artifact(run, str(bundle.path / name), folder)
        try:
            client.create_registered_model(model)
        except Exception:
            # It exists already, or this call raises the reason.
            client.get_registered_model(model)
        described = _description(bundle)
        version = str(client.create_model_version(model, f"runs:/{run}/{folder}", run, **described).version)
    client.set_tag(run, "mlkit.registered", f"{model}/{version}")
    if alias is not None:
        move_alias(client, bundle, alias)


def move_alias(client: Any, bundle: ModelBundle, alias: Alias) -> bool:
    """Point an alias at the version of a bundle; False if the bundle is not registered.

    A challenger that becomes champion loses the alias ``challenger``.
    """
    model, version = model_name(bundle), _registered(client, bundle)
    if version is None:
        return False
    client.set_registered_model_alias(model, alias, version)
    if alias == "champion" and str(client.get_registered_model(model).aliases.get("challenger")) == version:
        client.delete_registered_model_alias(model, "challenger")
    return True


def _registered(client: Any, bundle: ModelBundle) -> str | None:
    """Version that holds a bundle and whose run was not deleted; None if there is none."""
    for version in client.search_model_versions(f"name = '{model_name(bundle)}' and tags.`{BUNDLE}` = '{bundle.id}'"):
        try:
            if client.get_run(version.run_id).info.lifecycle_stage == "active":
                return str(version.version)
        except Exception as error:
            if status_of(error) != 404:
                raise
    return None


def _description(bundle: ModelBundle) -> dict[str, Any]:
    """Text and tags of a registered version."""
    manifest = bundle.manifest
    verdicts = [f"{h}: {row['verdict']}" for h, row in manifest.metrics.items() if row.get("verdict")]
    span = f"{manifest.training_span.start} to {manifest.training_span.end}, {manifest.training_span.bars:,} bars"
    tags = {BUNDLE: bundle.id, "data_sha256": manifest.data_sha256}
    return {
        "description": f"{manifest.symbol} {manifest.timeframe}, trained on {span}",
        "tags": tags | ({"verdicts": ", ".join(verdicts)} if verdicts else {}),
    }


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
    (`mlkit.models.bundle.inspect_bundle`). It is not published.

    Raises
    ------
    ConfigError for an invalid name. NotTrainedError where no version has the alias. BundleError where the registered
    bundle is damaged, was not registered by mlkit, or differs from what the registry states. TrackingError,
    DependencyError where MLflow does not answer or is not installed.
    """
    root = Path(root) if root is not None else _root(settings, model)
    store = MlflowStore.default()
    bundle, run, folder = _source(store, model, alias)
    target = root / bundle
    if target.is_dir():
        try:
            return ModelBundle.open(target)
        except BundleError:
            pass  # damaged: downloaded again
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=root, prefix=DRAFT))
    try:
        store.call(lambda client: _download(store, client, run, folder, draft / bundle), DOWNLOAD_SECONDS)
        inspect_bundle(draft / bundle)
        fetched = ModelBundle.open(draft / bundle)
        if fetched.id != bundle or model_name(fetched) != model:
            raise BundleError(
                f"{store}: the {alias} of {model} is registered as {bundle} but holds {fetched.id} of "
                f"{model_name(fetched)}; register it again"
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
    if not _MARKET.fullmatch(name):
        raise ConfigError(f"{model!r} is not the name of a registered market or pool, such as SP500-1d")
    return settings.models / POOLS / name if model.startswith(POOL) else settings.models / name


def _source(store: MlflowStore, model: str, alias: str) -> tuple[str, str, str]:
    """Bundle id, run id and artifact folder of the registered version that has an alias."""

    def request(client: Any) -> Any:
        try:
            return client.get_model_version_by_alias(model, alias)
        except Exception as error:
            if status_of(error) in (400, 404):
                return None
            raise

    version = store.call(request, DOWNLOAD_SECONDS)
    if version is None:
        raise NotTrainedError(f"{store}: no version of {model} has that alias; see the registry, or run mlkit train")
    bundle = str(version.tags.get(BUNDLE, ""))
    run, _, folder = str(version.source).removeprefix("runs:/").partition("/")
    if not str(version.source).startswith("runs:/") or not re.fullmatch(ID, bundle) or not folder:
        raise BundleError(f"{store}: version {version.version} of {model} was not registered by mlkit; train again")
    return bundle, run, folder


def _download(store: MlflowStore, client: Any, run: str, folder: str, into: Path) -> None:
    """Copy the files of an artifact folder; subfolders, unusual names and files that are too large are refused."""
    where = str(client.get_run(run).info.artifact_uri)
    if store.is_remote and where.partition(":")[0] not in _REMOTE:
        raise TrackingError(f"run {run}: its files are at {without_password(where)[:80]!r}, which {store} may not name")
    found = client.list_artifacts(run, folder)
    names = {str(file.path).rpartition("/")[2]: file for file in found}
    if MANIFEST not in names or len(found) > _MOST_FILES:
        raise TrackingError(f"run {run}: {folder} holds no bundle")
    for name, file in names.items():
        if file.is_dir or not _FILE_NAME.fullmatch(name) or (file.file_size or 0) > FILE_LIMIT:
            raise TrackingError(f"run {run}: {name[:80]!r} does not belong into a bundle")
    into.mkdir()
    incoming = into.with_name("incoming")
    incoming.mkdir()
    for name, file in names.items():
        if where.startswith(_SERVED):
            _stream(where, file.path, into / name)
        else:
            shutil.move(client.download_artifacts(run, file.path, str(incoming)), into / name)
        if (into / name).stat().st_size != file.file_size:
            raise TrackingError(f"run {run}: {name} has another size than {store} said")


def _stream(artifacts: str, path: str, target: Path) -> None:
    """Copy a file that an HTTP server sends, at most `FILE_LIMIT` bytes whatever size it announced."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

    repository: Any = get_artifact_repository(artifacts, os.environ.get("MLFLOW_TRACKING_URI"))
    room = FILE_LIMIT
    with http_request(repository._host_creds, f"/{path}", "GET", stream=True) as response, target.open("wb") as file:
        augmented_raise_for_status(response)
        for chunk in response.iter_content(2**16):
            room -= len(chunk)
            if room < 0:
                raise TrackingError(f"{path}: more than {FILE_LIMIT:,} bytes; no file of a bundle is so large")
            file.write(chunk)
