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

from mlkit.models.ensemble.tree_files import _UBJSON

Case = tuple[str, Callable[[Path], None], str]
_TOOLS = runpy.run_path(str(Path(__file__).with_name("hostile.py")))
put, sign, rewriting, canary, Canary = (_TOOLS[k] for k in ("put", "sign", "rewriting", "canary", "Canary"))


# XGBoost's files.


def ubjson(value: Any) -> bytes:
    """Universal Binary JSON as XGBoost writes it."""
    if isinstance(value, dict):
        return b"{" + b"".join(_length(key) + ubjson(item) for key, item in value.items()) + b"}"
    if isinstance(value, str):
        return b"S" + _length(value)
    if isinstance(value, list):
        return b"[#L" + len(value).to_bytes(8, "big") + b"".join(map(ubjson, value))
    if isinstance(value, np.ndarray):
        marker = {"i1": b"i", "u1": b"U", "i4": b"l", "i8": b"L", "f4": b"d", "f8": b"D"}[value.dtype.str[1:]]
        data = value.astype(value.dtype.newbyteorder(">")).tobytes()
        return b"[$" + marker + b"#L" + len(value).to_bytes(8, "big") + data
    return b"L" + int(value).to_bytes(8, "big", signed=True)


def _length(text: str) -> bytes:
    return b"L" + len(text.encode()).to_bytes(8, "big") + text.encode()


def xgboost() -> Iterator[Case]:
    name = "xgb_1.ubj"

    def edit(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Callable[[Path], None]:
        def damage(folder: Path) -> None:
            model = _UBJSON((folder / name).read_bytes()).document()
            trees = model["learner"]["gradient_booster"]["model"]["trees"]
            tree = next(t for t in trees if len(t["left_children"]) > 4)
            for key, array in tree.items():
                tree[key] = array.copy() if isinstance(array, np.ndarray) else array
            change(model["learner"], tree)
            put(folder / name, ubjson(model))
            sign(folder)

        return damage

    def set_at(key: str, index: int, value: float) -> Callable[[Any, Any], None]:
        def change(learner: Any, tree: Any) -> None:
            tree[key][index] = value

        return change

    shape = "learner_model_param"
    edits: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
        "a child out of range": (set_at("left_children", 0, 10**9), "not a node of its own tree"),
        "a child below the leaf's mark": (set_at("right_children", 0, -7), "not a node of its own tree"),
        "a node its own child": (set_at("left_children", 1, 1), "the child of two"),
        "a loop to the root": (set_at("left_children", 1, 0), "not a node of its own tree"),
        "two parents": (lambda _, t: t["right_children"].__setitem__(0, t["left_children"][0]), "the child of two"),
        "half a leaf": (set_at("right_children", 0, -1), "not a node of its own tree"),
        "a feature out of range": (set_at("split_indices", 0, 10**8), "a feature that does not exist"),
        "a feature below 0": (set_at("split_indices", 0, -3), "a feature that does not exist"),
        "a threshold NaN": (set_at("split_conditions", 0, np.nan), "not finite"),
        "a leaf infinite": (set_at("split_conditions", -1, np.inf), "not finite"),
        "a category": (set_at("split_type", 0, 1), "categorical splits"),
        "an array too short": (lambda _, t: t.update(left_children=t["left_children"][:-1]), "length of left_children"),
        "nodes 2**31": (lambda _, t: t["tree_param"].update(num_nodes=str(2**31)), "length of left_children"),
        "deleted nodes": (lambda _, t: t["tree_param"].update(num_deleted="1"), "deleted nodes"),
        "vectors in leaves": (lambda _, t: t["tree_param"].update(size_leaf_vector="9"), "leaf outputs"),
        "features of float": (lambda _, t: t.update(split_indices=t["split_indices"].astype("f4")), "vector of int32"),
        "trees as text": (lambda m, _: m["gradient_booster"]["model"].update(trees="many"), "not a XGBoost model"),
        "no trees": (lambda m, _: m["gradient_booster"]["model"].pop("trees"), "no 'trees'"),
        "an offset": (lambda m, _: m[shape].update(base_score="[5E-1]"), "base_score"),
        "two outputs": (lambda m, _: m[shape].update(num_target="2"), "num_target"),
        "classes": (lambda m, _: m[shape].update(num_class="3"), "num_class"),
        "10**12 features": (lambda m, _: m[shape].update(num_feature=str(10**12)), "features of a tree"),
        "another width": (lambda m, t: _width(m, "9"), "takes 9 features, the bundle 5"),
        "a link function": (lambda m, _: m["objective"].update(name="binary:logistic"), "objective"),
        "dropped trees": (lambda m, _: m["gradient_booster"].update(name="dart"), "booster"),
    }
    for what, (change, message) in edits.items():
        yield f"xgboost: {what}", edit(change), message

    random = np.random.default_rng(0)
    raws: dict[str, tuple[Callable[[bytes], bytes], str]] = {
        "empty": (lambda d: b"", "the file ends"),
        "half": (lambda d: d[: len(d) // 2], "the file ends"),
        "noise": (lambda d: random.bytes(len(d)), "not a XGBoost model"),
        "noise in an object": (lambda d: b"{" + random.bytes(len(d)), "not a XGBoost model"),
        "JSON": (lambda d: b'{"learner": {}}', "not a XGBoost model"),
        "100,000 brackets deep": (lambda d: b"[" * 100_000, "nested too deep"),
        "an array of 2**62": (lambda d: b"{L\0\0\0\0\0\0\0\1a[$l#L" + (2**62).to_bytes(8, "big") + b"}", "a length of"),
        "a length below 0": (lambda d: b"{i\xff", "a length of -1"),
        "a key twice": (lambda d: b"{i\1ai\0i\1ai\0}", "a is there twice"),
        "more after the end": (lambda d: d + b"Z", "follow the model"),
        "a pickle": (lambda d: pickle.dumps([1]), "not a XGBoost model"),
    }
    for what, (make, message) in raws.items():
        yield f"xgboost: {what}", rewriting(name, make), message


def _width(learner: dict[str, Any], width: str) -> None:
    learner["learner_model_param"]["num_feature"] = width
    for tree in learner["gradient_booster"]["model"]["trees"]:
        tree["tree_param"]["num_feature"] = width


# LightGBM's files.


def lightgbm() -> Iterator[Case]:
    name = "lgb_1.txt"

    def line(key: str, make: Callable[[str], str]) -> Callable[[bytes], bytes]:
        """Change the value of a key in the first tree that splits more than once."""

        def change(data: bytes) -> bytes:
            lines = data.decode().split("\n")
            start = next(k for k, text in enumerate(lines) if text.startswith("split_feature=") and " " in text)
            start = max(k for k in range(start) if lines[k].startswith("Tree="))
            k = next(k for k in range(start, len(lines)) if lines[k].startswith(f"{key}="))
            lines[k] = f"{key}={make(lines[k].split('=', 1)[1])}"
            return "\n".join(lines).encode()

        return change

    def first(value: object) -> Callable[[str], str]:
        return lambda text: " ".join([str(value), *text.split()[1:]])

    def head(key: str, value: str) -> Callable[[bytes], bytes]:
        def change(data: bytes) -> bytes:
            lines = data.decode().split("\n")
            k = next(k for k, text in enumerate(lines) if text.startswith(f"{key}="))
            lines[k] = f"{key}={value}"
            return "\n".join(lines).encode()

        return change

    cases: dict[str, tuple[Callable[[bytes], bytes], str]] = {
        "empty": (lambda d: b"", "end of the trees is missing"),
        "half": (lambda d: d[: len(d) // 2], "end of the trees is missing"),
        "zero bytes": (lambda d: bytes(len(d)), "end of the trees is missing"),
        "noise": (lambda d: b"\xff\xfe" * 500, "not a LightGBM model"),
        "a pickle": (lambda d: pickle.dumps([1]), "not a LightGBM model"),
        "2,000,000,000 leaves": (line("num_leaves", lambda t: "2000000000"), "length of"),
        "-5 leaves": (line("num_leaves", lambda t: "-5"), "not a LightGBM model"),
        "a child out of range": (line("left_child", first(10**6)), "not a node of its own tree"),
        "a leaf out of range": (line("left_child", first(-(10**6))), "not a node of its own tree"),
        "a loop": (line("left_child", first(0)), "not a node of its own tree"),
        "two parents": (line("right_child", lambda t: " ".join([t.split()[-1]] * len(t.split()))), "a node is"),
        "a feature out of range": (line("split_feature", first(10**6)), "a feature that does not exist"),
        "a feature beyond int32": (line("split_feature", first(2**33)), "out of range"),
        "a feature beyond int64": (line("split_feature", first(2**70)), "not a LightGBM model"),
        "a threshold NaN": (line("threshold", first("nan")), "not finite"),
        "a threshold of 10**999": (line("threshold", first("1e999")), "not finite"),
        "a threshold missing": (line("threshold", lambda t: t.split(" ", 1)[1]), "length of threshold"),
        "a leaf infinite": (line("leaf_value", first("inf")), "not finite"),
        "a leaf in hexadecimal": (line("leaf_value", first("0x1p3")), "not a LightGBM model"),
        "a category": (line("decision_type", first(1)), "splits by category"),
        "missing for zero": (line("decision_type", first(6)), "splits by category, or with zero"),
        "categories": (line("num_cat", lambda t: "1"), "num_cat"),
        "linear leaves": (line("is_linear", lambda t: "1"), "is_linear"),
        "a key twice": (line("num_leaves", lambda t: f"{t}\nnum_leaves={t}"), "num_leaves is there twice"),
        "10**12 features": (head("max_feature_idx", str(10**12)), "over 65536 can be"),
        "9 features": (head("max_feature_idx", "8"), "takes 9 features, the bundle 5"),
        "sizes of other trees": (head("tree_sizes", "5 5"), "number of trees"),
        "another version": (head("version", "v9"), "version"),
        "classes": (head("num_class", "3"), "num_class"),
        "a link function": (head("objective", "binary sigmoid:1"), "objective"),
        "trees out of order": (lambda d: d.replace(b"\nTree=0\n", b"\nTree=7\n"), "tree: "),
        "another first line": (lambda d: b"tre3" + d[4:], "first line"),
    }
    for what, (make, message) in cases.items():
        yield f"lightgbm: {what}", rewriting(name, make), message


# The forest's files.


def forest() -> Iterator[Case]:
    name = "rf_1.npz"

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
        "empty": (lambda d: b"", "not a forest file"),
        "half": (lambda d: d[: len(d) // 2], "not a forest file"),
        "noise": (lambda d: np.random.default_rng(0).bytes(len(d)), "not a forest file"),
        "a child out of range": (arrays(put_in("left", 0, 10**6)), "not a node of its own tree"),
        "a loop to the root": (arrays(put_in("left", 0, 0)), "not a node of its own tree"),
        "a node its own child": (arrays(put_in("right", 0, 1)), "a node is"),
        "half a leaf": (arrays(put_in("right", 0, -1)), "not a node of its own tree"),
        "an orphan": (arrays(lambda h: (put_in("left", 0, -1)(h), put_in("right", 0, -1)(h))), "nobody's child"),
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
        "a password": (lambda d: claims(d, 8, b"\1"), "not a forest file"),
        "an unknown compression": (lambda d: claims(d, 10, b"\x63"), "not a forest file"),
        "a wrong checksum": (lambda d: claims(d, 16, b"\0\0\0\0"), "not a forest file"),
    }
    for what, (make, message) in cases.items():
        yield f"forest: {what}", rewriting(name, make), message

    def bomb(folder: Path) -> None:
        objects = np.array([Canary(canary(folder))], dtype=object)
        put(folder / name, arrays(lambda held: held.update(value=objects))((folder / name).read_bytes()))
        sign(folder)

    yield "forest: pickled objects", bomb, "a vector of float64"
    yield (
        "forest: a pickle",
        lambda f: (put(f / name, pickle.dumps(Canary(canary(f)))), sign(f))[1],
        "not a forest file",
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
        "weights NaN": (edit(weights={"xgboost": float("nan")}), "contradict"),
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
        "more bytes": lambda d: d + bytes(64),
        "a pickle": lambda d: pickle.dumps([1]),
    }
    for what, make in cases.items():
        yield f"cnn: {what}", rewriting(name, make), "cnn.safetensors"
