"""Whole-slide images of liver tumours: from slides to a validated model and a report.

``from wsi_pipeline import open_slide, tissue_mask, tiles, encode, open_run`` and what else
``__all__`` names (``docs/api.md``); each is imported when it is first used. ``tiles``, ``train``,
``predict`` and ``view`` are modules too, which can be called.
"""

from typing import Final

import lazy_loader

__version__: Final = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["tiles", "train", "predict", "view"],
    submod_attrs={
        "api": [
            "Encoder",
            "FeatureBag",
            "Model",
            "Run",
            "Slide",
            "Tile",
            "TileDataset",
            "TileStore",
            "TissueMask",
            "WsiError",
            "encode",
            "heatmap",
            "load_encoder",
            "open_run",
            "open_slide",
            "open_tiles",
            "read_features",
            "tissue_mask",
        ],
    },
)
