"""The mask against outlines drawn by hand on real slides, without a look at the mask.

The rule for pale pieces was made on the pale liver and on the PAS slide; the others judge it.
"""

from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.slides import open_slide, read_low
from wsi_pipeline.tissue import annotated_mask, find_tissue, read_annotations
from wsi_pipeline.types import Mask

OUTLINES = Path(__file__).parent / "outlines"
# IoU at least, and the µm/px assumed where the file does not say it
LEAST = {
    "slides/TCGA-CR-7395-01A-01-TS1.svs": (0.948, 0.5),
    "slides/liver_glycogen_HE.tif": (0.944, 0.5),
    "slides/liver_glycogen_PAS.tif": (0.948, 0.5),
    "slides/PDAC-tru-cut_HE3.svs": (0.860, None),
    "slides/CMU-1-Small-Region.svs": (0.809, None),  # keratin in a cavity, drawn as glass, is taken
    "real_liver/liver_pale_pieces.tif": (0.93, 0.5),
    "real_liver/liver_capsule_folds.tif": (0.93, 0.5),
    "real_liver/liver_tumour_gaps.tif": (0.93, 0.25),
    "real_liver/liver_margin_ink.tif": (0.93, 0.25),
}


def overlap(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("name", LEAST)
def test_the_mask_meets_the_outline(data_dir: Path, name: str) -> None:
    least, assumed = LEAST[name]
    with open_slide(data_dir / name) as slide:
        mpp = slide.info.mpp or assumed
        assert mpp is not None
        overview = read_low(slide, mpp, 8.0)
    regions = read_annotations(OUTLINES / f"{Path(name).stem}.geojson")
    height, width = overview.rgb.shape[:2]
    drawn = annotated_mask(regions, (height, width), overview.downsample, overview.origin)
    assert 0.05 < drawn.mean() < 0.95
    found = find_tissue(overview.rgb, mpp * overview.downsample).mask
    assert overlap(found, drawn) >= least
    # the figure tells a mask that lies elsewhere, and one that takes everything
    assert overlap(np.roll(found, width // 10, axis=1), drawn) < least - 0.02
    assert overlap(np.ones_like(drawn), drawn) < least


# What lamp, mounting medium and camera do to the light, channel by channel: no cliff lies there.
LIGHT = {
    "warm": (1, 0.97, 0.9),
    "brown": (1, 0.93, 0.85),
    "green": (0.9, 1, 0.92),
    "over": (1.1,) * 3,
}


@pytest.mark.parametrize("light", LIGHT)
def test_the_light_of_the_glass_hardly_moves_the_mask(data_dir: Path, light: str) -> None:
    for name in ("slides/liver_glycogen_HE.tif", "slides/PDAC-tru-cut_HE3.svs"):
        with open_slide(data_dir / name) as slide:
            mpp = slide.info.mpp or 0.5
            overview = read_low(slide, mpp, 8.0)
        shone = np.clip(overview.rgb * np.array(LIGHT[light]), 0, 255).astype(np.uint8)
        um = mpp * overview.downsample
        found, usual = (find_tissue(rgb, um) for rgb in (shone, overview.rgb))
        assert overlap(found.mask, usual.mask) > 0.9
        assert "no_background" not in found.flags
