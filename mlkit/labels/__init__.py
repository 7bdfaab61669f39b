"""Level 2: what a model learns, each value with the time at which it is known."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
