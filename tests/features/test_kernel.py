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


def test_another_source_gives_another_stamp(tmp_path: Path) -> None:
    files = [FOLDER / f"{name}.py" for name in kernel.SOURCES]
    assert kernel.sources_stamp(files) == kernel.STAMP
    assert kernel.sources_stamp(files[1:]) != kernel.STAMP
    changed = tmp_path / "rules.py"
    changed.write_bytes((FOLDER / "rules.py").read_bytes() + b" ")
    stamps = {kernel.sources_stamp([*files[:-1], file]) for file in (files[-1], changed)}
    assert len(stamps) == 2
