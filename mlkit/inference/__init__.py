"""Level 5: insights from bars and models: patterns, price forecasts and signals of a closed bar."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
