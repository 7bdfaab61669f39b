"""Figures of the notebooks: axes in, axes out, units on every axis.

Call ``plots.style()`` once in a notebook; every other function draws into the axes it is given and returns
them: ``fig, ax = plt.subplots(); plots.candles(ax, bars)``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
