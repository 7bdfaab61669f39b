"""Level 3: purged splits, metrics, significance, backtest and the trial ledger."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
