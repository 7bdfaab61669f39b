"""Reports: papermill over the notebooks, one page to read, and a receipt by which others can derive it again.

Notebooks use ``headline`` for the numbers a report is remembered by, and ``show_insight`` for its `Insight`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
