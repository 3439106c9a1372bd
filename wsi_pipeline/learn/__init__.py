"""Splits, tile classifiers, aggregators, honest evaluation, model bundles.

The names in ``__init__.pyi`` are the room's whole public surface. Each is imported when it is first
used: a verb's settings come from here, and ``--help`` waits for no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
