"""Bundles as an attacker or a failing disk would leave them: each case damages a copy of a good one.

A case is a name, a function that damages a folder, and a piece of the refusal. Where files are changed the
manifest is made to match, identifier and digests included, unless the name starts with "unsigned": so only
reading the files can tell.
"""

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlkit.models.bundle.manifest import render, signed

Case = tuple[str, Callable[[Path], None], str]
KINDS = ("xgb_1.ubj", "lgb_3.txt", "rf_1.npz", "calibration.json", "cnn.safetensors")


def put(path: Path, data: bytes) -> None:
    """Replace a file; the template's copy may be a hard link."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def described(folder: Path) -> dict[str, Any]:
    """The manifest's values."""
    values: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return values


def sign(folder: Path, **changes: Any) -> None:
    """Make the manifest fit whatever the files hold now."""
    values = described(folder) | changes
    for name, record in values["files"].items():
        data = (folder / name).read_bytes()
        record |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    put(folder / "manifest.json", render(signed(values)))


class Canary:
    """Unpickled, it leaves a file where the tests look."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def canary(folder: Path) -> Path:
    """What appears beside the bundles if anything of theirs is executed."""
    return folder.parent / "EXECUTED"


def rewriting(name: str, make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Replace the content of a file, and sign."""

    def damage(folder: Path) -> None:
        put(folder / name, make((folder / name).read_bytes()))
        sign(folder)

    return damage


# Files changed behind the manifest's back.


def unsigned() -> Iterator[Case]:
    def half(folder: Path, name: str) -> None:
        put(folder / name, (folder / name).read_bytes()[: (folder / name).stat().st_size // 2])

    def flip(folder: Path, name: str) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 4
        put(folder / name, bytes(data))

    def link(folder: Path, name: str) -> None:
        target = folder.parent / f"outside-{folder.name}"
        put(target, (folder / name).read_bytes())
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    for name in KINDS:
        yield f"unsigned: half of {name}", lambda f, n=name: half(f, n), "bytes, "
        yield f"unsigned: {name} empty", lambda f, n=name: put(f / n, b""), "has 0 bytes"
        yield f"unsigned: a bit of {name} flipped", lambda f, n=name: flip(f, n), "SHA-256 differs"
        yield f"unsigned: {name} missing", lambda f, n=name: (f / n).unlink(), "is missing"
        yield f"unsigned: {name} a link to the outside", lambda f, n=name: link(f, n), "cannot be read"

    def swap(folder: Path, first: str, second: str) -> None:
        one, two = (folder / first).read_bytes(), (folder / second).read_bytes()
        put(folder / first, two)
        put(folder / second, one)

    def instead(folder: Path, make: Callable[[Path], Any]) -> None:
        (folder / "rf_1.npz").unlink()
        make(folder / "rf_1.npz")

    yield "unsigned: xgb_1 and xgb_3 swapped", lambda f: swap(f, "xgb_1.ubj", "xgb_3.ubj"), "xgb_1.ubj"
    yield "unsigned: lgb_1 and rf_3 swapped", lambda f: swap(f, "lgb_1.txt", "rf_3.npz"), "lgb_1.txt"
    yield "unsigned: a folder for a file", lambda f: instead(f, Path.mkdir), "not a regular file"
    yield "unsigned: a pipe for a file", lambda f: instead(f, os.mkfifo), "not a regular file"
    yield "unsigned: a device for a file", lambda f: instead(f, lambda p: p.symlink_to("/dev/zero")), "cannot be read"
    yield "unsigned: an extra pickle", lambda f: put(f / "model.pkl", pickle.dumps(Canary(canary(f)))), "belong there"
    yield "unsigned: an extra folder", lambda f: (f / "more").mkdir(), "more does not belong there"
    yield "unsigned: a name with a line break", lambda f: put(f / "a\nb", b""), "a?b does not belong there"


# Manifests.


def manifests() -> Iterator[Case]:
    def text(make: Callable[[str], str | bytes]) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            made = make((folder / "manifest.json").read_text())
            put(folder / "manifest.json", made if isinstance(made, bytes) else made.encode())

        return change

    raw: dict[str, tuple[Callable[[str], str | bytes], str]] = {
        "empty": (lambda t: "", "not a manifest"),
        "half": (lambda t: t[: len(t) // 2], "not a manifest"),
        "null": (lambda t: "null", "not a manifest"),
        "a list": (lambda t: "[]", "not a manifest"),
        "100,000 brackets deep": (lambda t: "[" * 100_000, "not a manifest"),
        "5 MB of blanks": (lambda t: t + " " * 5_000_000, "too long"),
        "UTF-16": (lambda t: t.encode("utf-16"), "was changed"),
        "a byte order mark": (lambda t: b"\xef\xbb\xbf" + t.encode(), "was changed"),
        "a pickle": (lambda t: pickle.dumps({"schema_version": 3}), "not a manifest"),
        "a key twice": (lambda t: t.replace('"seed": 7', '"seed": 7,\n "seed": 7'), "was changed"),
        "NaN": (lambda t: t.replace('"seed": 7', '"seed": NaN'), "not a manifest"),
        "Infinity": (lambda t: t.replace('"seed": 7', '"seed": 1e999'), "not a manifest"),
        "5,000 digits": (lambda t: t.replace('"seed": 7', f'"seed": {"7" * 5000}'), "not a manifest"),
        "another spelling": (lambda t: t.replace('"seed": 7', '"seed":  7'), "was changed"),
        "another time": (lambda t: t.replace("2026-01-02T03", "2027-01-02T03"), "was changed"),
        "features swapped": (lambda t: t.replace('"x0"', '"x9"'), "was changed"),
    }
    for name, (make, message) in raw.items():
        yield f"manifest: {name}", text(make), message

    def deep(levels: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(levels):
            value = [value]
        return value

    digest = {"sha256": "0" * 64, "size": 1}
    values: dict[str, tuple[dict[str, Any], str]] = {
        "schema 2": ({"schema_version": 2}, "schema 2, this mlkit reads 4 and 5"),
        "schema 5": ({"schema_version": 5}, "several markets is of schema 5"),
        "schema 6": ({"schema_version": 6}, "schema 6, this mlkit reads 4 and 5"),
        "schema as text": ({"schema_version": "4"}, "schema '4', this mlkit reads 4 and 5"),
        "schema as list": ({"schema_version": [4]}, "schema [4], this mlkit reads 4 and 5"),
        "horizons unsorted": ({"horizons": [3, 1]}, "horizons must increase"),
        "horizons negative": ({"horizons": [-1, 3]}, "greater than or equal to 1"),
        "horizons as text": ({"horizons": "1,3"}, "horizons"),
        "features repeated": ({"feature_names": ["a", "a"]}, "feature names repeat"),
        "one feature more": ({"feature_names": [f"x{k}" for k in range(6)]}, "disagree on horizons or features"),
        "other horizons": ({"horizons": [1, 4]}, "disagree on horizons or features"),
        "an unknown key": ({"surprise\n": 1}, "surprise?"),
        "settings 600 deep": ({"settings": {"a": deep(600)}}, "manifest"),
        "evidence that is a number": ({"pattern_evidence": {"doji": 5}}, "pattern_evidence.doji"),
        "evidence without a horizon": ({"pattern_evidence": {"doji": {"cases": 3}}}, "pattern_evidence.doji.horizon"),
        "evidence as a list": ({"pattern_evidence": [1]}, "pattern_evidence"),
        "a pattern in colour": ({"pattern_evidence": {"\x1b[31m": {}}}, "pattern_evidence"),
        "metrics of no horizon": ({"metrics": {"x": {}}}, "metrics"),
        "metrics that are a list": ({"metrics": {"1": [1]}}, "metrics.1"),
        "metrics that are deep": ({"metrics": {"1": {"r2": [[1]]}}}, "metrics.1.r2"),
        "a market in colour": ({"symbol": "\x1b[31mBTC\x1b[0m"}, "symbol"),
        "a market written backwards": ({"symbol": "BTC\u202eTDSU"}, "symbol"),
        "a timeframe with a line break": ({"timeframe": "1m\n"}, "timeframe"),
        "a feature in colour": ({"feature_names": ["\x1b[31m", "b", "c", "d", "e"]}, "feature_names.0"),
        "a version in colour": ({"library_versions": {"numpy": "\x07"}}, "library_versions.numpy"),
        "a horizon of 10**12": ({"horizons": [1, 10**12]}, "horizons.1"),
        **{
            f"training to {end[:12]}": ({"training_span": {"start": "2026-01-01", "end": end, "bars": 9}}, "span.end")
            for end in ("garbage", "NaT", "2262-04-13", "1500-01-01", "2026-02-30", "2026-W01-1", "now", "")
        },
        "training from a number": ({"training_span": {"start": 5, "end": "2026-01-01", "bars": 9}}, "span.start"),
        "a seed of 4,000 digits": ({"seed": int("7" * 4000)}, "seed"),
    }
    for name, (changes, message) in values.items():
        yield f"manifest: {name}", lambda f, c=changes: sign(f, **c), message

    records: dict[str, tuple[dict[str, Any], str]] = {
        "a path upwards": ({"../evil.txt": digest}, "not a plain file name"),
        "an absolute path": ({"/etc/passwd": digest}, "not a plain file name"),
        "a path of Windows": ({"..\\evil.txt": digest}, "not a plain file name"),
        "a path with a drive": ({"C:evil.txt": digest}, "not a plain file name"),
        "a folder": ({"a/b.txt": digest}, "not a plain file name"),
        "a hidden file": ({".bashrc.txt": digest}, "not a plain file name"),
        "a zero byte in a name": ({"a\0.txt": digest}, "not a plain file name"),
        "a line break in a name": ({"x.txt\n": digest}, "not a plain file name"),
        "names alike": ({"RF_1.npz": digest}, "differ in case only"),
        "a size below 0": ({"a.txt": digest | {"size": -1}}, "greater than or equal to 0"),
        "a size of 10**18": ({"a.txt": digest | {"size": 10**18}}, "less than or equal to"),
        "a size and a half": ({"a.txt": digest | {"size": 1.5}}, "size"),
        "too many bytes": ({f"a{k}.txt": digest | {"size": 2**28} for k in range(5)}, "files of more than"),
        "a digest too short": ({"a.txt": digest | {"sha256": "00"}}, "sha256"),
        "a file that is not there": ({"a.txt": digest}, "a.txt is missing"),
    }

    def list_files(folder: Path, more: dict[str, Any]) -> None:
        held = described(folder)
        put(folder / "manifest.json", render(signed(held | {"files": held["files"] | more})))

    for name, (more, message) in records.items():
        yield f"manifest: {name}", lambda f, m=more: list_files(f, m), message
    yield (
        "manifest: no files",
        lambda f: put(f / "manifest.json", render(signed(described(f) | {"files": {}}))),
        "files",
    )

    def no_manifest(folder: Path) -> None:
        (folder / "manifest.json").rename(folder.parent / f"manifest-{folder.name}")
        (folder / "manifest.json").symlink_to(folder.parent / f"manifest-{folder.name}")

    yield "manifest: a link", no_manifest, "cannot be read"
    yield "manifest: missing", lambda f: (f / "manifest.json").unlink(), "no published model"
