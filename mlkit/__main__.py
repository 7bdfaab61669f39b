"""``python -m mlkit`` is the command ``mlkit``."""

import sys

from mlkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
