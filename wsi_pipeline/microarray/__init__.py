"""Tissue microarrays: where the cores are, which is which, and what a person says about it.

What is exported stands in ``__init__.pyi`` and is imported when it is first used: a cohort without
microarrays waits for none of it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
