"""No picture, whatever is on it, takes much time or memory; what is no array is refused."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_pipeline.types import RgbImage

SIDE = 800  # px: what overviews are enlarged to
SECONDS, MEGABYTES = 30, 1000  # four times what the slowest takes: a bound, not a timing
DEARRAY = r"""
import re, sys
from pathlib import Path
import numpy as np
from wsi_pipeline.errors import NoTissueError
from wsi_pipeline.microarray import dearray
try:
    print(len(dearray(np.load(sys.argv[1])).present))
except NoTissueError as error:
    print(error)
# of this program alone: ru_maxrss remembers the larger one that it was forked from
print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def grey(values: NDArray[Any]) -> RgbImage:
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def noise(blur: float) -> RgbImage:
    values = np.random.default_rng(0).normal(0, 1, (SIDE, SIDE)).astype(np.float32)
    values = cv2.GaussianBlur(values, (0, 0), blur)
    return grey((values - values.min()) / (values.max() - values.min()) * 255)


def text() -> RgbImage:
    page = np.full((SIDE, SIDE, 3), 250, np.uint8)
    for line in range(40, SIDE, 60):
        words = "the quick brown fox jumps over the lazy dog"
        cv2.putText(page, words, (10, line), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (20, 20, 20), 3)
    return page


def checkerboard(step: int) -> RgbImage:
    y, x = np.mgrid[:SIDE, :SIDE]
    return grey((y // step + x // step) % 2 * 200 + 40)


PICTURES: dict[str, Callable[[], RgbImage]] = {
    "noise": lambda: noise(0.8),
    "blurred noise": lambda: noise(2.0),
    "clouds": lambda: noise(6.0),
    "text": text,
    "blank": lambda: grey(np.full((SIDE, SIDE), 243)),
    "black": lambda: grey(np.zeros((SIDE, SIDE))),
}


def dearrayed(folder: Path, picture: RgbImage) -> tuple[str, int]:
    """What it says and the memory it took, MB, of a process that is killed after 30 s of CPU."""
    np.save(folder / "picture.npy", picture)
    done = subprocess.run(
        [sys.executable, "-c", DEARRAY, str(folder / "picture.npy")],
        capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr or f"took more than {SECONDS} s"
    said, megabytes = done.stdout.strip().splitlines()
    return said, int(megabytes)


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_no_array_is_refused_soon(tmp_path: Path, name: str) -> None:
    said, megabytes = dearrayed(tmp_path, PICTURES[name]())
    assert said.startswith("No cores found")
    assert megabytes < MEGABYTES


def test_a_coarse_checkerboard_is_soon_done(tmp_path: Path) -> None:
    """It is as regular as an array, so it may be taken for one."""
    _, megabytes = dearrayed(tmp_path, checkerboard(40))
    assert megabytes < MEGABYTES


@pytest.mark.parametrize(("name", "dark"), [("tcga-red-pen", True), ("almost-white-2", False)])
def test_slides_that_are_no_arrays(data_dir: Path, tmp_path: Path, name: str, dark: bool) -> None:
    picture = cv2.imread(str(data_dir / "pen" / f"{name}.png"))
    assert picture is not None
    said, megabytes = dearrayed(tmp_path, 255 - picture if dark else picture)
    assert said.startswith("No cores found")
    assert megabytes < MEGABYTES
