"""Level 2: bars to a float32 matrix by causal step kernels.

Each name is imported on first use, so ``import mlkit.features`` compiles nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
