"""attribkit: what a vision model looked at, how far that answer can be trusted, and whether the model is right for the wrong reason."""

import lazy_loader

__version__ = "0.1.0"

# The public names are those of the stub beside this file, one by one; each loads what it needs when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
