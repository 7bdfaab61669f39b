"""A model as an immutable directory: manifest, digests, publishing, inspection."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
