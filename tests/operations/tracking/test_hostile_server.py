"""A tracking server that lies: about the size of a file, and about where files are."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlkit.errors import TrackingError
from mlkit.operations.tracking import registry
from mlkit.operations.tracking.mlflow_store import MlflowStore

pytest.importorskip("mlflow")
SERVER = "http://user:secret@127.0.0.1:9"


class _Endless(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(10_000):
                self.wfile.write(b"x" * 100_000)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def endless() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endless)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def client_of(artifacts: str, **sizes: int) -> Any:
    """A client whose run has its files there, of these sizes as it says."""
    files = [
        SimpleNamespace(path=f"bundles/b/{name}.json", is_dir=False, file_size=size) for name, size in sizes.items()
    ]

    def download(run: str, path: str, into: str) -> str:
        raise AssertionError("read from this machine by a server's word")

    return SimpleNamespace(
        get_run=lambda run: SimpleNamespace(info=SimpleNamespace(artifact_uri=artifacts)),
        list_artifacts=lambda run, folder: files,
        download_artifacts=download,
    )


def test_bytes_are_counted_while_they_arrive(endless: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "FILE_LIMIT", 1_000_000)
    with pytest.raises(TrackingError, match="more than 1,000,000 bytes"):
        registry._download(MlflowStore(endless), client_of(endless, manifest=10), "run", "bundles/b", tmp_path / "b")
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 1_000_000


@pytest.mark.parametrize("artifacts", ["file:///etc", "/etc", "", "mlflow-artifacts-x:/a", "ftp://user:secret@host/a"])
def test_a_server_names_no_folder_of_this_machine(artifacts: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="may not name") as caught:
        registry._download(MlflowStore(SERVER), client_of(artifacts, manifest=10), "run", "bundles/b", tmp_path / "b")
    assert "secret" not in str(caught.value) and not (tmp_path / "b").exists()


def test_a_database_of_this_machine_may(tmp_path: Path) -> None:
    assert not MlflowStore(f"sqlite:///{tmp_path}/mlflow.db").is_remote and not MlflowStore(str(tmp_path)).is_remote
    assert MlflowStore(SERVER).is_remote and MlflowStore("databricks://x").is_remote
