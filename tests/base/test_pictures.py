"""Pictures are whole, or the disk's word is heard."""

import resource
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_pipeline.pictures import write_picture

NOISE = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_what_is_written_is_the_picture(tmp_path: Path, suffix: str) -> None:
    path, smooth = tmp_path / f"a{suffix}", np.asarray(cv2.GaussianBlur(NOISE, (0, 0), 9), np.uint8)
    smooth[:, :, 0] //= 2  # the colours in another order are another picture
    write_picture(path, smooth, 95 if suffix == ".jpg" else None)
    found = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert np.abs(found.astype(int) - smooth).max() <= (8 if suffix == ".jpg" else 0)


def test_a_disk_that_takes_no_more_is_told_and_the_old_picture_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_picture(path, NOISE[:4, :4])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            write_picture(path, NOISE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
