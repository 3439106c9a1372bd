"""Reports: plain data to figures, heatmaps, and an HTML page with its pictures beside it.

The names in ``__init__.pyi`` are the room's whole public surface. Each is imported when it is first
used: the workbench takes a few of them, and waits for no figures.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
