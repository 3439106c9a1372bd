"""The mask against outlines drawn by hand on real slides, without a look at the mask."""

from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.slides import open_slide, read_low
from wsi_pipeline.tissue import annotated_mask, find_tissue, read_annotations
from wsi_pipeline.types import Mask

OUTLINES = Path(__file__).parent / "outlines"
ASSUMED_MPP = 0.5  # of slides that do not say theirs

# a little under what was measured: 0.948, 0.944, 0.948, 0.860, 0.809
LEAST = {
    "TCGA-CR-7395-01A-01-TS1.svs": 0.93,
    "liver_glycogen_HE.tif": 0.93,
    "liver_glycogen_PAS.tif": 0.93,
    "PDAC-tru-cut_HE3.svs": 0.85,
    "CMU-1-Small-Region.svs": 0.79,  # flakes of keratin in a cavity, drawn as glass, are taken
}


def overlap(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("name", LEAST)
def test_the_mask_meets_the_outline(data_dir: Path, name: str) -> None:
    with open_slide(data_dir / "slides" / name) as slide:
        mpp = slide.info.mpp or ASSUMED_MPP
        overview = read_low(slide, mpp, 8.0)
    regions = read_annotations(OUTLINES / f"{Path(name).stem}.geojson")
    height, width = overview.rgb.shape[:2]
    drawn = annotated_mask(regions, (height, width), overview.downsample, overview.origin)
    assert 0.05 < drawn.mean() < 0.9
    found = find_tissue(overview.rgb, mpp * overview.downsample).mask
    assert overlap(found, drawn) >= LEAST[name]
    # the figure tells a mask that lies elsewhere, and one that takes everything
    assert overlap(np.roll(found, width // 10, axis=1), drawn) < LEAST[name] - 0.02
    assert overlap(np.ones_like(drawn), drawn) < LEAST[name]
