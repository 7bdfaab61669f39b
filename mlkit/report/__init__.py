"""Level 7: reports of the notebooks, run by papermill, with one page to read and a receipt to verify them by.

Notebooks call ``headline`` for their headline numbers and ``show_insight`` for an `Insight`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
