"""Damaged and hostile bundles: each refused in one line, nothing executed, the process alive."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkit.cli import main
from mlkit.errors import BundleError, MlkitError
from mlkit.models.bundle import inspection
from mlkit.models.bundle.bundle import ModelBundle, write_bundle
from mlkit.models.ensemble.price_predictor import PricePredictor
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.models.ensemble.split import TrainingArrays
from mlkit.models.patterns.cnn import PRETRAINED

HOSTILE = runpy.run_path(str(Path(__file__).with_name("hostile.py")))
MODELS = runpy.run_path(str(Path(__file__).with_name("hostile_models.py")))
CASES = [case for name in ("unsigned", "manifests") for case in HOSTILE[name]()]
CASES += [case for name in ("trees", "calibration", "cnn") for case in MODELS[name]()]
NATIVE = list(MODELS["native"]())
N, F, HORIZONS = 700, 5, (1, 3)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good bundle with every kind of file."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(N, F)).astype(np.float32)
    Y, end = np.full((N, 2), np.nan), np.full((N, 2), -1)
    for j, h in enumerate(HORIZONS):
        Y[:-h, j], end[:-h, j] = 0.001 * (X[:-h, 0] + X[:-h, 1] * X[:-h, 2] + rng.normal(size=N - h)), np.arange(h, N)
    settings = EnsembleSettings.smoke(n_threads=1, n_estimators=10, forest_trees=4, min_leaf=20)
    price = PricePredictor.fit(TrainingArrays(X, Y, end, np.full((N, 2), 0.001), HORIZONS), settings)
    fields = {
        "created": "2026-01-02T03:04:05+00:00",
        "symbol": "BTCUSDT",
        "timeframe": "1m",
        "feature_names": [f"x{k}" for k in range(F)],
        "horizons": HORIZONS,
        "training_span": {"start": "2026-01-01", "end": "2026-01-02", "bars": N},
        "data_sha256": "0" * 64,
        "seed": 7,
        "settings": {},
        "metrics": {},
    }
    root = tmp_path_factory.mktemp("models")
    return write_bundle(root, fields, price=price, cnn_file=PRETRAINED / "classic.safetensors").path


def copy(template: Path, target: Path) -> Path:
    """A bundle to damage; unchanged files are shared."""
    return Path(shutil.copytree(template, target, copy_function=os.link))


# Opens folder after folder as `mlkit bundle verify` does, the libraries' turn left out, and says what came of it.
CHILD = """
import json, sys
from pathlib import Path
from mlkit.errors import MlkitError
from mlkit.models.bundle import inspection

inspection._print = lambda **line: None
inspection.warm_up()
for folder in sorted(Path(sys.argv[1]).iterdir(), key=lambda path: path.name):
    if folder.name.isdigit():
        try:
            with inspection._limited(300, 1024):
                inspection._compare(inspection._open(folder), {})
            said = ["accepted", ""]
        except MlkitError as error:
            said = ["refused", str(error)]
        except BaseException as error:
            said = [type(error).__name__, str(error)]
        print(json.dumps([folder.name, *said]), flush=True)
"""


def test_every_case_is_refused_in_one_line(template: Path, tmp_path: Path) -> None:
    for k, (_, damage, _) in enumerate(CASES):
        damage(copy(template, tmp_path / f"{k:03}"))
    copy(template, tmp_path / "999")  # the one that is good
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = {int(name): (what, message) for name, what, message in map(json.loads, done.stdout.splitlines())}
    print()
    wrong = []
    for k, (name, _, expected) in enumerate(CASES):
        what, message = told[k]
        shown = re.sub(r"^bundle \S+: ", "", message.replace(str(tmp_path), "."))
        print(f"{name:<46} {what:<9} {shown[:150]}")
        if what != "refused" or expected not in message or "\n" in message or len(message) > 600:
            wrong.append(f"{name}: {what}: {message[:300]} (expected {expected!r})")
    print(f"{len(CASES)} cases, {sum(what == 'refused' for what, _ in told.values())} refused")
    assert not wrong, "\n".join(wrong)
    assert len(CASES) >= 80 and told[999] == ("accepted", "")
    assert not (tmp_path / "EXECUTED").exists()


def test_the_canary_sings() -> None:
    """The planted fault: a reader that unpickles would leave the file that the table looks for."""
    import pickle

    made = Path.cwd() / "EXECUTED"
    assert not made.exists()
    try:
        pickle.loads(pickle.dumps(HOSTILE["Canary"](made)))
        assert made.exists()
    finally:
        made.rmdir()


def test_every_flipped_bit_shows(template: Path, tmp_path: Path) -> None:
    """500 flips, spread evenly over the files of a bundle, the manifest among them."""
    folder = Path(shutil.copytree(template, tmp_path / template.name))
    files = sorted(folder.iterdir())
    rng = np.random.default_rng(3)
    missed = []
    for k in range(500):
        path = files[k % len(files)]
        whole = path.read_bytes()
        place, bit = int(rng.integers(len(whole))), int(rng.integers(8))
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([whole[place] ^ (1 << bit)]))
        try:
            ModelBundle.open(folder)
            missed.append(f"{path.name} byte {place} bit {bit}")
        except BundleError as error:
            assert "\n" not in str(error)
        path.write_bytes(whole)
    assert missed == []
    assert ModelBundle.open(folder).id == template.name


def test_the_command_verifies_a_good_bundle_with_every_library(template: Path, capsys: Any) -> None:
    assert main(["bundle", "verify", str(template)]) == 0
    out = capsys.readouterr().out
    assert f"{template}: whole, 12 files of BTCUSDT 1m match their digests" in out
    assert "trees; read alike by mlkit, xgboost, lightgbm\n" in out


def test_the_command_refuses_in_one_line(template: Path, tmp_path: Path, capsys: Any) -> None:
    damage = dict((name, damage) for name, damage, _ in CASES)["lightgbm: a loop to the root"]
    damage(copy(template, tmp_path / "bundle"))
    assert main(["bundle", "verify", str(tmp_path / "bundle")]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert "lgb_1.npz: a child is not a node of its own tree; train the bundle again" in shown.err


@pytest.mark.parametrize(("damage", "message"), [pytest.param(*case[1:], id=case[0]) for case in NATIVE])
def test_a_damaged_file_of_a_library_is_refused_by_the_inspection(
    template: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    """Forecasts do not read it: they have the bits of the undamaged bundle."""
    folder = copy(template, tmp_path / "bundle")
    damage(folder)
    X, scale = np.random.default_rng(2).normal(size=(5, F)).astype(np.float32), np.full((5, 2), 0.001)
    whole, damaged = (ModelBundle.open(path).price for path in (template, folder))
    assert whole is not None and damaged is not None
    assert np.array_equal(damaged.predict(X, scale).raw, whole.predict(X, scale).raw)
    with pytest.raises(BundleError, match=message) as error:
        inspection.inspect_bundle(folder, seconds=60)
    assert "\n" not in str(error.value)


STEP = 'print(\'{"step": "xgboost reading xgb_1.ubj"}\', flush=True)'


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            r"xgboost reading xgb_1.ubj crashes .* \(SIGSEGV\)",
        ),
        ("import os; os.abort()", r"xgboost reading xgb_1.ubj crashes the process \(SIGABRT\)"),
        ("import time; time.sleep(60)", "xgboost reading xgb_1.ubj takes more than 1 seconds"),
        ("import os; os._exit(0)", r"crashes the process \(exit 0\)"),
        ("raise SystemExit(3)", r"crashes the process \(exit 3\)"),
    ],
)
def test_whatever_becomes_of_the_child_is_one_line(code: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        inspection._watch([sys.executable, "-S", "-c", f"{STEP}\n{code}"], tmp_path, 1)
    assert "\n" not in str(caught.value)


def test_limits_hold_in_the_child(tmp_path: Path) -> None:
    code = f"""
import json, sys
from pathlib import Path
from mlkit.models.bundle import inspection
found = {{"memory": "unlimited", "files": "unlimited"}}
with inspection._limited(60, 200):
    try:
        held = bytearray(400 * 2**20)
    except MemoryError:
        found["memory"] = "limited"
    try:
        Path({str(tmp_path / "written")!r}).write_bytes(b"x")
    except OSError:
        found["files"] = "limited"
print(json.dumps({{"found": found}}))
"""
    assert inspection._watch([sys.executable, "-c", code], tmp_path, 60) == {"memory": "limited", "files": "limited"}


def test_a_library_that_sees_other_trees_is_heard(template: Path) -> None:
    def other(data: bytes, X: np.ndarray) -> np.ndarray:
        return np.zeros(len(X))

    def broken(data: bytes, X: np.ndarray) -> np.ndarray:
        raise RuntimeError("no such tree\nsecond line")

    with pytest.raises(BundleError, match=r"lgb_1\.txt: lightgbm finds other trees in it than mlkit"):
        inspection._compare(ModelBundle.open(template), {"lightgbm": other})
    with pytest.raises(MlkitError, match=r"refuses its file \(RuntimeError: no such tree second line\)"):
        inspection._compare(ModelBundle.open(template), {"xgboost": broken})
