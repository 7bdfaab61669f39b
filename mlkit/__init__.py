"""Honest machine-learning research on market bars.

``dir(mlkit)`` lists the public surface; ``__init__.pyi`` says where each name lives. A name is imported on
first use, so ``import mlkit`` costs little more than nothing.
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("mlkit")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"
