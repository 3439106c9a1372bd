"""What a command does not wait for: libraries that it has no use for are not imported.

How long starts take is measured by ``python -m benchmarks.starts``.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.verbs import VERBS

NETWORKS = {"torch", "timm", "safetensors", "transformers", "huggingface_hub", "sklearn"}
PROCESSES = {"dask", "distributed", "asyncio"}
ARRAYS = {"zarr", "tensorstore", "fsspec", "h5py", "pandas"}
DRAWINGS = {"shapely", "skimage", "scipy", "matplotlib", "jinja2"}
WEB = {"urllib3", "http.client", "ssl", "httpx", "boto3", "cryptography"}
SLIDES = {"openslide", "tiffslide", "tifffile", "pydicom", "imagecodecs", "simplejpeg"}
SCREEN = {"rich", "psutil"}
PIXELS = {"numpy", "cv2", "PIL", "filelock", "xxhash"}  # and what stands between them and files
SHOW_CHOICES = ("tile", "qc", "cores")
"""Verbs whose help names methods, flags or readers, which are told by who works with pixels."""


def imported(verb: str, *words: str) -> tuple[set[str], str]:
    """Run a verb in a process of its own; return what that has imported, and what it said."""
    code = (
        "import sys\n"
        f"from wsi_pipeline.{verb} import main\n"
        f"try:\n    status = main({list(words)!r})\n"
        "except SystemExit as end:\n    status = end.code\n"
        "assert not status, status\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(done.stderr.split()), done.stdout


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_imports_nothing_that_works(verb: str) -> None:
    found, said = imported(verb, "--help")
    assert f"python -m wsi_pipeline.{verb}" in said
    heavy = NETWORKS | PROCESSES | ARRAYS | DRAWINGS | WEB | SLIDES | SCREEN
    assert not found & (heavy if verb in SHOW_CHOICES else heavy | PIXELS)


def test_cutting_a_slide_imports_what_that_takes(tmp_path: Path, data_dir: Path) -> None:
    """No network, no array library, no process but its own; nothing of microarrays and drawings."""
    slide = data_dir / "slides" / "CMU-1-Small-Region.svs"
    found, _ = imported("tile", str(slide), "--run", str(tmp_path))
    assert (RunFolder(tmp_path).tiles / f"{slide.stem}.zarr").is_dir()
    assert not found & (NETWORKS | PROCESSES | ARRAYS | DRAWINGS | WEB)
    assert not {name for name in found if name.startswith("wsi_pipeline.microarray.")}
