"""Tiles: where they lie on a slide, how they are cut, and the stores that keep them.

What is exported stands in ``__init__.pyi`` and is imported when it is first used: so a stage's
settings (:mod:`~wsi_pipeline.tiles.settings`) cost the command line no image library.
"""

import lazy_loader

from wsi_pipeline.callable_module import make_callable

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
make_callable(__name__)  # wsi_pipeline.tiles(slide) is the interface's function
