"""What flat images tell about how each was made, for the audit."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from wsi_pipeline.learn.audit.evidence import Numbers, SlideEvidence
from wsi_pipeline.learn.finetune.sources import read_picture
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.tissue import focus

GLASS: Final = 255.0  # grey level that absorbs nothing


def picture_evidence(
    paths: Mapping[str, Path], internal: Iterable[str], external: Iterable[str]
) -> dict[str, SlideEvidence]:
    """Return the evidence of internal images; of external ones what identifies them, no more.

    Args:
        paths: The file of each image.
        internal, external: Which images.

    Raises:
        LearnError: A file is no readable image.
    """
    inside = {name: _evidence(paths[name], _numbers(paths[name])) for name in internal}
    return inside | {name: _evidence(paths[name], {}) for name in external}


def _evidence(path: Path, numbers: Mapping[str, Numbers]) -> SlideEvidence:
    return SlideEvidence(identity=slide_digest(path), thumbnail=path, numbers=numbers)


def _numbers(path: Path) -> dict[str, Numbers]:
    rgb = read_picture(path)
    density = -np.log10((rgb.reshape(-1, 3) + 1.0) / (GLASS + 1.0)).mean(0)
    return {
        "picture size": (float(rgb.shape[1]), float(rgb.shape[0])),
        "focus": (float(np.log1p(focus(rgb[None])[0])),),
        "stain": tuple(float(value) for value in density),
    }
