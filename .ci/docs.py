"""Build the API reference of every public module from its docstrings into build/docs (make docs)."""

import pkgutil
import sys
from pathlib import Path

import pdoc

import mlkit

TARGET = Path(__file__).parents[1] / "build" / "docs"


def modules() -> list[str]:
    """``mlkit`` and every module below it whose name is public."""
    found = pkgutil.walk_packages(mlkit.__path__, "mlkit.")
    return ["mlkit", *(m.name for m in found if not any(part.startswith("_") for part in m.name.split(".")))]


def main() -> int:
    """Write the pages; returns the exit status."""
    pdoc.render.configure(docformat="numpy", search=True)
    pdoc.pdoc(*modules(), output_directory=TARGET)
    print(TARGET / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
