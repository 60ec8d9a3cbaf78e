"""Layer-by-layer reconstruction toward the dense model.

The public names for authors of plugins are listed in ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
