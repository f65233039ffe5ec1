"""Hard negatives in contrastive learning: the theory, the geometry, the losses, the training loops.

The names that most people need stand here (see `dir(hardcl_nb)`, or the stub `__init__.pyi`); each is imported
when it is first used.
"""
from .start import begin as _begin

_begin() # before all other imports

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
