"""Level 1: bars, checked once where they enter; their sources, calendars and outages."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
