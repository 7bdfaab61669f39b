"""Model files that only reading can tell from good ones: each case damages a file of a copy of a good bundle.

The manifest is made to match, identifier and digests included. A case is a name, a function that damages a
folder, and a piece of the refusal.
"""

import io
import json
import pickle
import runpy
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Case = tuple[str, Callable[[Path], None], str]
_TOOLS = runpy.run_path(str(Path(__file__).with_name("hostile.py")))
put, sign, rewriting, canary, Canary = (_TOOLS[k] for k in ("put", "sign", "rewriting", "canary", "Canary"))


# The libraries' own files: nothing but attributions and the inspection in a child process reads them.


def native() -> Iterator[Case]:
    def other_leaf(data: bytes) -> bytes:
        lines = data.decode().split("\n")
        k = next(k for k, text in enumerate(lines) if text.startswith("leaf_value="))
        lines[k] = lines[k].translate(str.maketrans("123456789", "234567891"))  # as long as before
        return "\n".join(lines).encode()

    def other_threshold(data: bytes) -> bytes:
        """Every threshold of one tree is replaced; lengths stay."""
        head = b"split_conditions[$d#L"
        at = data.index(head) + len(head)
        size = int.from_bytes(data[at : at + 8], "big")
        return data[: at + 8] + np.full(size, 0.5, ">f4").tobytes() + data[at + 8 + 4 * size :]

    cases: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
        "XGBoost, empty": ("xgb_1.ubj", lambda d: b"", "xgboost reading xgb_1.ubj crashes"),
        "XGBoost, half": ("xgb_1.ubj", lambda d: d[: len(d) // 2], "xgboost refuses its file"),
        "XGBoost, noise": ("xgb_3.ubj", lambda d: np.random.default_rng(0).bytes(len(d)), "xgb"),
        "XGBoost, another tree": ("xgb_1.ubj", other_threshold, "xgb_1.ubj: xgboost finds other trees"),
        "LightGBM, empty": ("lgb_1.txt", lambda d: b"", "lightgbm"),
        "LightGBM, half": ("lgb_1.txt", lambda d: d[: len(d) // 2], "lightgbm"),
        "LightGBM, noise": ("lgb_3.txt", lambda d: b"\xff\xfe" * 500, "lightgbm refuses its file"),
        "LightGBM, another leaf": ("lgb_1.txt", other_leaf, "lgb_1.txt: lightgbm finds other trees"),
        "LightGBM, a loop": ("lgb_1.txt", _loop, "lgb_1.txt"),
    }
    for what, (name, make, message) in cases.items():
        yield f"native: {what}", rewriting(name, make), message


def _loop(data: bytes) -> bytes:
    """The first child of a tree is the tree's root."""
    lines = data.decode().split("\n")
    k = next(k for k, text in enumerate(lines) if text.startswith("left_child=") and " " in text)
    lines[k] = "left_child=0 " + lines[k].split(" ", 1)[1]
    return "\n".join(lines).encode()


# Arrays of trees.


def trees() -> Iterator[Case]:
    """Every kind of damage to the forest's file, and a few to the boosted trees', which the same code reads."""
    yield from _arrays("forest", "rf_1.npz")
    for kind, name in (("xgboost", "xgb_1.npz"), ("lightgbm", "lgb_1.npz")):
        few = ("empty", "a loop to the root", "a feature out of range", "another width", "a bomb of 300 MB")
        yield from (case for case in _arrays(kind, name) if case[0].split(": ")[1] in few)


def _arrays(kind: str, name: str) -> Iterator[Case]:

    def arrays(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
        def make(data: bytes) -> bytes:
            with np.load(io.BytesIO(data)) as stored:
                held = {key: stored[key].copy() for key in stored.files}
            change(held)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **held)
            return buffer.getvalue()

        return make

    def members(change: Callable[[dict[str, bytes]], Any]) -> Callable[[bytes], bytes]:
        def make(data: bytes) -> bytes:
            buffer = io.BytesIO()
            with zipfile.ZipFile(io.BytesIO(data)) as old:
                held = {entry: old.read(entry) for entry in old.namelist()}
            change(held)
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
                for entry, content in held.items():
                    new.writestr(entry, content)
            return buffer.getvalue()

        return make

    def twice(data: bytes) -> bytes:
        buffer = io.BytesIO(data)
        with zipfile.ZipFile(buffer, "a") as archive, _quiet():
            archive.writestr("value.npy", b"another")
        return buffer.getvalue()

    def claims(data: bytes, offset: int, value: bytes) -> bytes:
        """Overwrite a field of the first entry in the central directory."""
        at = data.index(b"PK\x01\x02") + offset
        return data[:at] + value + data[at + len(value) :]

    def put_in(key: str, index: int, value: float) -> Callable[[dict[str, Any]], None]:
        return lambda held: held[key].__setitem__(index, value)

    cases: dict[str, tuple[Callable[[bytes], bytes], str]] = {
        "empty": (lambda d: b"", "not a file of trees"),
        "half": (lambda d: d[: len(d) // 2], "not a file of trees"),
        "noise": (lambda d: np.random.default_rng(0).bytes(len(d)), "not a file of trees"),
        "a child out of range": (arrays(put_in("left", 0, 10**6)), "not a node of its own tree"),
        "a loop to the root": (arrays(put_in("left", 0, 0)), "not a node of its own tree"),
        "a node its own child": (arrays(put_in("right", 0, 1)), "a node has"),
        "half a leaf": (arrays(put_in("right", 0, -1)), "not a node of its own tree"),
        "an orphan": (arrays(lambda h: (put_in("left", 0, -1)(h), put_in("right", 0, -1)(h))), "has no parent"),
        "a feature out of range": (arrays(put_in("feature", 0, 5)), "a feature that does not exist"),
        "a threshold NaN": (arrays(put_in("threshold", 0, np.nan)), "not finite"),
        "a value infinite": (arrays(put_in("value", -1, -np.inf)), "not finite"),
        "offsets that overlap": (arrays(put_in("offsets", 1, 10**6)), "tree offsets"),
        "offsets below 0": (arrays(put_in("offsets", 0, -1)), "tree offsets"),
        "no trees": (arrays(lambda h: h.update(offsets=h["offsets"][:1])), "tree"),
        "another width": (arrays(lambda h: h.update(importance=np.ones(9))), "takes 9 features, the bundle 5"),
        "a missing array": (arrays(lambda h: h.pop("left")), "expected the arrays"),
        "values as text": (arrays(lambda h: h.update(value=h["value"].astype("U8"))), "a vector of float64"),
        "a table": (arrays(lambda h: h.update(value=h["value"][:, None])), "a vector of float64"),
        "the other byte order": (arrays(lambda h: h.update(value=h["value"].astype(">f8"))), "a vector of float64"),
        "a header of 2**40": (
            members(lambda h: h.update({"value.npy": h["value.npy"].replace(b"(", b"(1099511627776", 1)})),
            "a vector of float64",
        ),
        "a header that is code": (
            members(lambda h: h.update({"value.npy": h["value.npy"].replace(b"{'descr'", b"__import", 1)})),
            "a vector of float64",
        ),
        "half an array": (members(lambda h: h.update({"value.npy": h["value.npy"][:100]})), "a vector of float64"),
        "a path upwards": (members(lambda h: h.update({"../../left.npy": h.pop("left.npy")})), "expected the arrays"),
        "a member twice": (twice, "expected the arrays"),
        "a bomb of 300 MB": (members(lambda h: h.update({"value.npy": bytes(300 * 2**20)})), "unpacks to more than"),
        "a claim of 4 GB": (lambda d: claims(d, 24, b"\xfe\xff\xff\xff"), "unpacks to more than"),
        "a password": (lambda d: claims(d, 8, b"\1"), "not a file of trees"),
        "an unknown compression": (lambda d: claims(d, 10, b"\x63"), "not a file of trees"),
        "a wrong checksum": (lambda d: claims(d, 16, b"\0\0\0\0"), "not a file of trees"),
    }
    for what, (make, message) in cases.items():
        yield f"{kind}: {what}", rewriting(name, make), message

    def bomb(folder: Path) -> None:
        objects = np.array([Canary(canary(folder))], dtype=object)
        put(folder / name, arrays(lambda held: held.update(value=objects))((folder / name).read_bytes()))
        sign(folder)

    yield "forest: pickled objects", bomb, "a vector of float64"
    yield (
        "forest: a pickle",
        lambda f: (put(f / name, pickle.dumps(Canary(canary(f)))), sign(f))[1],
        "not a file of trees",
    )


def _quiet() -> Any:
    return warnings.catch_warnings(action="ignore")


# The calibration and the pattern CNN.


def calibration() -> Iterator[Case]:
    name = "calibration.json"

    def edit(**changes: Any) -> Callable[[bytes], bytes]:
        return lambda data: json.dumps(json.loads(data) | changes).encode()

    cases: dict[str, tuple[Callable[[bytes], bytes], str]] = {
        "empty": (lambda d: b"", "not a calibration"),
        "a pickle": (lambda d: pickle.dumps([1]), "not a calibration"),
        "a list": (lambda d: b"[]", "not a calibration"),
        "100,000 brackets deep": (lambda d: b"[" * 100_000, "not a calibration"),
        "no features": (edit(n_features=None), "not a calibration"),
        "infinite features": (lambda d: d.replace(b'"n_features": 5', b'"n_features": 1e999'), "not a calibration"),
        "10**9 features": (edit(n_features=10**9), "features, the bundle 1000000000"),
        "other horizons": (edit(horizons=[1, 4]), "contradict"),
        "weights of 2": (edit(weights={"xgboost": 1.0, "lightgbm": 1.0}), "contradict"),
        "weights NaN": (edit(weights={"xgboost": float("nan")}), "finite number"),
        "an unknown library": (edit(weights={"os.system": 1.0}), "contradict"),
        "no calibrations": (edit(calibrations=[]), "contradict"),
        "calibrations as text": (edit(calibrations=["a", "b"]), "calibration"),
    }
    for what, (make, message) in cases.items():
        yield f"calibration: {what}", rewriting(name, make), message


def cnn() -> Iterator[Case]:
    name = "cnn.safetensors"

    def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
        def make(data: bytes) -> bytes:
            size = int.from_bytes(data[:8], "little")
            head = json.loads(data[8 : 8 + size])
            change(head)
            text = json.dumps(head).encode()
            return len(text).to_bytes(8, "little") + text + data[8 + size :]

        return make

    def of(head: dict[str, Any]) -> dict[str, Any]:
        """Description of the first tensor."""
        found: dict[str, Any] = next(value for key, value in head.items() if key != "__metadata__")
        return found

    cases: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda d: b"",
        "half": lambda d: d[: len(d) // 2],
        "a header of 2**60": lambda d: (2**60).to_bytes(8, "little") + d[8:],
        "a header longer than the file": lambda d: (len(d) + 1).to_bytes(8, "little") + d[8:],
        "a header that is no JSON": lambda d: d[:8] + b"?" + d[9:],
        "a header 100,000 deep": lambda d: (100_000).to_bytes(8, "little") + b"[" * 100_000 + d,
        "a tensor out of the file": header(lambda h: of(h).update(data_offsets=[0, 10**12])),
        "a tensor of 2**62 numbers": header(lambda h: of(h).update(shape=[2**31, 2**31])),
        "a tensor that ends before it begins": header(lambda h: of(h).update(data_offsets=[4, 0])),
        "an unknown kind of number": header(lambda h: of(h).update(dtype="Q7")),
        "no metadata": header(lambda h: h.pop("__metadata__")),
        "metadata 50,000 deep": header(lambda h: h["__metadata__"].update(mlkit='{"seed":' + "[" * 50_000)),
        "metadata that is a number": header(lambda h: h["__metadata__"].update(mlkit="5")),
        "more bytes": lambda d: d + bytes(64),
        "a pickle": lambda d: pickle.dumps([1]),
    }
    for what, make in cases.items():
        yield f"cnn: {what}", rewriting(name, make), "cnn.safetensors"
