"""Bundles come back from the registry as they went in, or not at all."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mlkit.cli import main
from mlkit.config import Settings
from mlkit.errors import BundleError, ConfigError, NotTrainedError, TrackingError
from mlkit.models.bundle.bundle import ModelBundle
from mlkit.models.bundle.publishing import history
from mlkit.operations.tracking import registry
from mlkit.operations.tracking.registry import fetch_bundle
from mlkit.operations.tracking.tracking import tracked

pytest.importorskip("mlflow")


@pytest.fixture
def bundle(mlflow_home: Path, recorded_by_mlflow: Any) -> ModelBundle:
    """The champion of a registry, gone from the disk."""
    made: ModelBundle = recorded_by_mlflow.bundle_in(mlflow_home / "elsewhere")
    with tracked("train", Settings(tracking=True), name="x") as run:
        run.bundle(made, "champion")
    return made


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models are not read in another process, which takes seconds and has tests of its own."""
    monkeypatch.setattr(registry, "inspect_bundle", lambda folder: {})


def stored(home: Path, bundle: ModelBundle) -> Path:
    """Folder of a bundle among the artifacts."""
    (folder,) = home.glob(f"data/mlartifacts/*/artifacts/bundles/{bundle.id}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_champion_comes_back_to_the_byte_through_the_command(
    mlflow_home: Path, bundle: ModelBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["track", "fetch", "SP500-1d", "--publish"]) == 0
    root = mlflow_home / "data" / "models" / "SP500-1d"
    assert capsys.readouterr().out == f"{root / bundle.id}\n"
    assert contents(root / bundle.id) == contents(bundle.path)
    assert history(root) == (bundle.id,)
    assert not [path for path in root.iterdir() if path.name.startswith(".bundle-")]


def test_what_is_there_is_not_fetched_again_and_what_is_damaged_is(
    mlflow_home: Path, bundle: ModelBundle, unread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch_bundle(Settings(), "SP500-1d")
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_download", None)
        assert fetch_bundle(Settings(), "SP500-1d").path == first.path
    (first.path / "words.txt").write_text("two")
    assert contents(fetch_bundle(Settings(), "SP500-1d").path) == contents(bundle.path)


def test_a_pool_is_a_model_of_its_own_and_comes_back_among_the_pools(
    mlflow_home: Path, recorded_by_mlflow: Any, bundle: ModelBundle, unread: None
) -> None:
    span = {"start": "2020-01-01", "end": "2020-06-01", "bars": 100}
    member = {"training_span": span, "garch": [0.1, 0.1, 0.8], "data_sha256": "ab" * 32, "metrics": {}}
    pool = recorded_by_mlflow.bundle_in(mlflow_home / "elsewhere", pool={"NASDAQ": member, "SP500": member})
    with tracked("train", Settings(tracking=True), name="x") as run:
        run.bundle(pool, "champion")
    assert fetch_bundle(Settings(), "pool@SP500-1d").path == Settings().models / "pools" / "SP500-1d" / pool.id
    assert fetch_bundle(Settings(), "SP500-1d").id == bundle.id


@pytest.mark.parametrize("fault", ["changed", "missing", "more", "folder", "another bundle", "another market"])
def test_what_is_not_the_registered_bundle_is_refused_and_leaves_nothing(
    fault: str, mlflow_home: Path, recorded_by_mlflow: Any, bundle: ModelBundle, unread: None
) -> None:
    folder, model = stored(mlflow_home, bundle), "SP500-1d"
    if fault == "changed":
        (folder / "words.txt").write_text("two")
    elif fault == "missing":
        (folder / "words.txt").unlink()
    elif fault == "more":
        (folder / "more.pkl").write_bytes(b"cos\nsystem\n")
    elif fault == "folder":
        (folder / "more").mkdir()
        (folder / "more" / "file").write_text("")
    elif fault == "another bundle":
        other = recorded_by_mlflow.bundle_in(mlflow_home / "elsewhere", "other")
        shutil.rmtree(folder)
        shutil.copytree(other.path, folder)
    else:
        model = "NASDAQ-1d"
        source = recorded_by_mlflow.ask(lambda c: c.get_model_version_by_alias("SP500-1d", "champion"))

        def register(client: Any) -> None:
            client.create_registered_model(model)
            made = client.create_model_version(model, source.source, source.run_id, tags=source.tags)
            client.set_registered_model_alias(model, "champion", made.version)

        recorded_by_mlflow.ask(register)
    with pytest.raises((BundleError, TrackingError)):
        fetch_bundle(Settings(), model, root=mlflow_home / "fetched")
    assert list((mlflow_home / "fetched").iterdir()) == []


def test_a_stranger_s_bundle_is_read_in_another_process(mlflow_home: Path, bundle: ModelBundle) -> None:
    (stored(mlflow_home, bundle) / "words.txt").write_text("two")
    with pytest.raises(BundleError, match=r"words\.txt is not what was written"):
        fetch_bundle(Settings(), "SP500-1d")


def test_without_such_a_version_it_is_said_in_one_line(
    mlflow_home: Path, recorded_by_mlflow: Any, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotTrainedError, match="no version of SP500-1d"):
        fetch_bundle(Settings(), "SP500-1d", "challenger")
    with pytest.raises(NotTrainedError, match="no version of DAX-1d"):
        fetch_bundle(Settings(), "DAX-1d")

    def register(client: Any) -> None:
        client.create_registered_model("FOREIGN-1d")
        made = client.create_model_version("FOREIGN-1d", "s3://bucket/model", None)
        client.set_registered_model_alias("FOREIGN-1d", "champion", made.version)

    recorded_by_mlflow.ask(register)
    with pytest.raises(BundleError, match="was not registered by mlkit"):
        fetch_bundle(Settings(), "FOREIGN-1d")
    with pytest.raises(ConfigError, match="is not the name"):
        fetch_bundle(Settings(), "../SP500-1d")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9"):
        fetch_bundle(Settings(), "SP500-1d")
