"""Reports, matrices and notebooks of strangers: refused in one line, without running, waiting or a traceback."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from mlkit.cli import main
from mlkit.errors import ConfigError, ReportError
from mlkit.report import compare_reports, verify_report
from mlkit.report.headlines import HEADLINE_MIME, INSIGHT_MIME
from mlkit.report.parameters import declared_parameters

Tiny = tuple[Path, dict[str, Any]]


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> Path:
    return shutil.copytree(tiny[0], tmp_path / "copy")


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    receipt = json.loads((folder / "receipt.json").read_bytes())
    change(receipt)
    (folder / "receipt.json").write_text(json.dumps(receipt))


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for key in keys[:-1]:
            values = values[key]
        del values[keys[-1]]

    return change


def with_value(value: Any, *keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: Any) -> None:
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


EDITS = {
    **{f"without {key}": without(key) for key in ("symbol", "data", "git", "versions", "threads", "parameters")},
    "without a digest of the bars": without("data", "sha256"),
    "an unknown key": with_value(1, "surprise"),
    "another schema": with_value(2, "schema"),
    "text for a number of bars": with_value("many", "data", "bars"),
    "a seed below zero": with_value(-1, "seed"),
    "a list for the settings": with_value([], "settings"),
    "a number for a file": with_value(5, "files", "index.html"),
    "a headline that is text": with_value("edge", "headlines", 0),
    "a headline without a cell": without("headlines", 0, "cell"),
    "a million digits": with_value(10**6, "headlines", 0, "digits"),
    "text for digits": with_value("four", "headlines", 0, "digits"),
    "parameters of another shape": with_value([[1]], "parameters"),
    "a colour in a name": with_value("\x1b[31mevil\x1b[0m", "symbol"),
    "a line break in a notebook's name": with_value("00\n", "headlines", 0, "notebook"),
    "10,000 headlines": with_value([{}] * 10_000, "headlines"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_receipt_is_refused_in_one_line(
    name: str, copy: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(copy, EDITS[name])
    for command in (
        ["verify", "--quick", str(copy)],
        ["diff", str(tiny[0]), str(copy)],
    ):
        assert main(command) == 2
        shown = capsys.readouterr()
        assert "holds no readable receipt.json (" in shown.err and shown.out == ""
        assert shown.err.count("\n") == 1 and shown.err.rstrip("\n").isprintable()


RAW = {
    "null": b"null",
    "a list": b"[]",
    "100,000 brackets": b"[" * 100_000,
    "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "5 MB": b'{"a":"' + b"x" * 5_000_000 + b'"}',
    "half a surrogate": b'{"symbol": "\\ud800"}',
    "not UTF-8": b'{"symbol": "\xff"}',
    "NaN": b'{"schema": NaN}',
    "empty": b"",
}


@pytest.mark.parametrize("name", RAW)
def test_a_receipt_of_other_bytes_is_refused(name: str, copy: Path) -> None:
    (copy / "receipt.json").write_bytes(RAW[name])
    for check in (lambda: verify_report(copy, again=False), lambda: compare_reports(copy, copy)):
        with pytest.raises(ReportError, match=r"holds no readable receipt\.json \("):
            check()


@pytest.mark.parametrize("name", ["receipt.json", "index.html", "00_first.ipynb", "more.txt"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a link", "a folder"])
def test_what_is_no_plain_file_is_refused_without_waiting(kind: str, name: str, copy: Path) -> None:
    path = copy / name
    path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "a device" else "/etc/hostname")
    with pytest.raises(ReportError):
        verify_report(copy, again=False)


def test_a_file_of_a_terabyte_is_not_read(copy: Path) -> None:
    with (copy / "index.html").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ReportError, match=r"index\.html: too long, over 67,108,864 bytes"):
        verify_report(copy, again=False)


PAYLOADS: dict[str, tuple[str, Any]] = {
    "no numbers": (HEADLINE_MIME, {"title": "t", "digits": 4}),
    "numbers that are no pairs": (HEADLINE_MIME, {"title": "t", "digits": 4, "numbers": [1]}),
    "digits as text": (HEADLINE_MIME, {"title": "t", "digits": "x", "numbers": [["a", 1.5]]}),
    "a billion digits": (HEADLINE_MIME, {"title": "t", "digits": 10**9, "numbers": [["a", 1.5]]}),
    "a list for a value": (HEADLINE_MIME, {"title": "t", "digits": 4, "numbers": [["a", [[[]]]]]}),
    "text": (HEADLINE_MIME, "headline"),
    "an insight that is a list": (INSIGHT_MIME, [1]),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_outputs_that_mlkit_did_not_write_are_refused(name: str, copy: Path) -> None:
    mime, payload = PAYLOADS[name]
    path = copy / "00_first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs.append(nbformat.v4.new_output("display_data", {mime: payload}))
    nbformat.write(notebook, path)
    seal(copy)
    with pytest.raises(ReportError, match=r"00_first\.ipynb, cell \d+: its (headline numbers were|insight was) edited"):
        verify_report(copy, again=False)


def seal(folder: Path) -> None:
    """Make the digests of the receipt fit the files."""
    import hashlib

    names = sorted(path.name for path in folder.iterdir() if path.name != "receipt.json")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    edit(folder, with_value(digests, "files"))


@pytest.mark.parametrize(
    "data",
    [b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [5]}'],
    ids=["an empty object", "a list", "not text", "deep", "cells of numbers"],
)
def test_a_notebook_that_is_none_is_refused(data: bytes, copy: Path) -> None:
    (copy / "00_first.ipynb").write_bytes(data)
    seal(copy)
    with pytest.raises(ReportError, match=r"00_first\.ipynb is not a notebook"):
        verify_report(copy, again=False)


def test_a_file_that_is_exchanged_after_the_check_is_not_read(
    copy: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: digests of one file, numbers of another."""
    from mlkit.report import rederive

    real = rederive.read_files

    def exchanged(folder: Path) -> dict[str, bytes]:
        files = real(folder)
        for path in copy.glob("*.ipynb"):
            path.write_text("not what was checked")
        return files

    monkeypatch.setattr(rederive, "read_files", exchanged)
    assert verify_report(copy, again=False, notebooks=tiny[1]["notebooks"])[0].startswith("files: ")


# --- matrices and annotations -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: [{symbol: SP500, timeframe: 1d, notebooks: [[1]]}]", "notebooks must be one word"),
        ("runs: [{symbol: SP500, timeframe: 1d, notebooks: {a: b}}]", "notebooks must be one word"),
        ("runs: [{symbol: SP500, timeframe: 1d, seed: [7]}]", "seed must be one word"),
        ("runs: [{symbol: SP500, timeframe: 1d, since: {a: b}}]", "since must be one word"),
        ("runs: [{symbol: SP500, timeframe: 1d, name: [x]}]", "name must be one word"),
        ("runs: " + "[" * 5000, "is not YAML"),
    ],
)
def test_a_matrix_of_other_types_is_refused(text: str, message: str, tmp_path: Path) -> None:
    from mlkit.report.matrix import read_matrix

    (tmp_path / "runs.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_matrix(tmp_path / "runs.yaml")


def test_a_matrix_that_is_a_pipe_does_not_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "runs.yaml")
    assert main(["report", "--matrix", str(tmp_path / "runs.yaml")]) == 2
    assert "runs.yaml: not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "annotation",
    [
        "str.__class__.__base__.__subclasses__()",
        "list[(lambda: open('ran', 'w'))()]",
        "[x for x in (1,)]",
        "Literal[open('ran', 'w')]",
        "int if True else str",
        "dict[str, " * 80 + "int" + "]" * 80,
        " | ".join(["int"] * 3000),
    ],
)
def test_an_annotation_is_read_and_never_evaluated(
    annotation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cell = nbformat.v4.new_code_cell(f"x: {annotation} = 1", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "00_a.ipynb")
    with pytest.raises(ConfigError, match=r"00_a\.ipynb"):
        declared_parameters(tmp_path / "00_a.ipynb")
    assert not (tmp_path / "ran").exists()
