"""The cache of compiled functions where neither the package nor the home folder can be written."""

import logging
import os
from pathlib import Path

import numba
import pytest
from numba.core import caching, config

from mlkit.compiled import cached


def double(x: float) -> float:
    return 2.0 * x


@pytest.fixture(autouse=True)
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a folder that is named is found, as where the package and the home folder are read-only."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [caching.UserProvidedCacheLocator])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_temporary_folder_of_this_user_and_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(double)
    first, second = cached(nogil=True)(double), cached(nogil=True)(double)
    assert first(2.0) == second(2.0) == 4.0
    folder = tmp_path / f"mlkit-numba-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700 and list(folder.rglob("*.nbi"))
    assert os.environ["NUMBA_CACHE_DIR"] == str(folder)
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.WARNING


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    foreign = tmp_path / f"mlkit-numba-{os.getuid()}"
    foreign.mkdir()
    foreign.chmod(0o777)
    assert cached()(double)(2.0) == 4.0
    assert not list(foreign.iterdir()) and os.environ["NUMBA_CACHE_DIR"] != str(foreign)


def test_without_any_folder_there_is_no_cache(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent/folder")
    first, second = cached()(double), cached()(double)
    assert first(2.0) == second(2.0) == 4.0
    assert first.stats.cache_path is None
    assert len(caplog.records) == 1
