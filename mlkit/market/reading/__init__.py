"""Files and frames to bars: read strictly, or repaired with a count of every change."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
