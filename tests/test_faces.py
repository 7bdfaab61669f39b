"""Rooms have faces: other rooms, notebooks and guides import names of a face, never a file behind it."""

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FACES = sorted(".".join(path.relative_to(ROOT).parent.parts) for path in (ROOT / "mlkit").rglob("__init__.pyi"))
# Single files that every level uses.
FREE = {"mlkit.compiled", "mlkit.config", "mlkit.errors", "mlkit.threads", "mlkit.untrusted"}


def sources() -> Iterator[tuple[str, str, str]]:
    """``(name, room, source)`` of every module, notebook and guide; a notebook and a guide are rooms of their own."""
    for path in sorted((ROOT / "mlkit").rglob("*.py")):
        name = path.relative_to(ROOT)
        yield str(name), name.parts[1] if len(name.parts) > 2 else "", path.read_text()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        yield path.name, "notebook", "\n".join(line for cell in code for line in cell.splitlines() if line[:1] != "%")
    for path in [ROOT / "README.md", *sorted((ROOT / "mlkit").rglob("*.md")), *sorted(ROOT.glob("*/README.md"))]:
        for block in re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL):
            yield str(path.relative_to(ROOT)), "guide", block


def behind_a_face(room: str, source: str) -> list[str]:
    """The imports of ``source`` that reach a file of another room instead of its face."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.count(".") > 1 and alias.name not in FACES]
            continue
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("mlkit."):
            continue
        module = str(node.module)
        if module in FREE or module.split(".")[1] == room:
            continue
        public = importlib.import_module(module).__all__ if module in FACES else []
        names = [f"{module}.{alias.name}" for alias in node.names if alias.name not in public]
        found += [name for name in names if name not in FACES]  # a face may be imported whole
        if room in ("notebook", "guide") and module.count(".") > 1:  # a reader meets rooms, not the rooms inside them
            found.append(module)
    return [name for name in found if name.startswith("mlkit")]


@pytest.mark.parametrize(("name", "room", "source"), [pytest.param(*s, id=s[0]) for s in sources()])
def test_imports_stay_in_front_of_the_faces(name: str, room: str, source: str) -> None:
    if name.startswith("mlkit/cli") or name.startswith("mlkit/__"):
        room = "cli"
    assert behind_a_face(room, source) == []


def test_an_import_behind_a_face_is_seen() -> None:
    assert behind_a_face("features", "def f():\n    from mlkit.market.bars import validate_bars\n")
    assert behind_a_face("features", "from mlkit.market import no_such_name\n")
    assert behind_a_face("market", "from mlkit.market.bars import validate_bars\n") == []
    assert behind_a_face("report", "from mlkit.market.lake import BarStore\n") == []
    assert behind_a_face("notebook", "from mlkit.market.lake import BarStore\n")


def without_a_sentence(stub: str) -> list[str]:
    """The imports of a stub that no comment stands above; one comment serves imports without a line between them."""
    blocks = [block.splitlines() for block in stub.split("\n\n") if "\nfrom ." in f"\n{block}"]
    return [block[-1] for block in blocks if not block[0].startswith("#")]


def test_a_name_without_a_sentence_is_seen() -> None:
    assert without_a_sentence('"""A face."""\n\n# A bar.\nfrom .bars import A as A\n\nfrom .bars import B as B\n') == [
        "from .bars import B as B"
    ]


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_exists_and_has_a_sentence(face: str) -> None:
    module = importlib.import_module(face)
    assert module.__all__
    assert without_a_sentence((ROOT / face.replace(".", "/") / "__init__.pyi").read_text()) == []
    for name in module.__all__:
        assert getattr(module, name) is not None, name
