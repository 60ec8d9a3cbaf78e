"""fastprune: post-training structured pruning of Transformers, without retraining.

Everything public is listed in ``__init__.pyi``, and it is all that a plugin may import. A name is imported when it is
first used, so that the command line's help does not wait for torch.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("fastprune")
