"""What a plugin author implements, and what flows between the stages.

The public names for authors of plugins are listed in ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
