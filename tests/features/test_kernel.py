"""The cache of compiled kernels knows every source that they are made of."""

import ast
from pathlib import Path

from mlkit.features import kernel

FOLDER = Path(kernel.__file__).parent


def imported(path: Path) -> set[str]:
    """Modules of this folder that a module imports when it is loaded."""
    tree = ast.parse(path.read_text())
    names = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {name.removeprefix("mlkit.features.") for name in names if name.startswith("mlkit.features.")}


def test_every_module_behind_the_engine_is_in_the_stamp() -> None:
    seen, waiting = set(), {"engine"}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= imported(FOLDER / f"{name}.py") - seen
    assert seen - {"many"} == set(kernel.SOURCES)  # many only distributes work


def test_another_source_gives_another_stamp() -> None:
    assert kernel._sources_stamp() == kernel.STAMP
    original = kernel.SOURCES
    try:
        kernel.SOURCES = original[1:]
        assert kernel._sources_stamp() != kernel.STAMP
    finally:
        kernel.SOURCES = original
