"""A virtual environment for each peer, so that none has to live with another's pins.

python -m benchmarks.environments FOLDER
"""

import argparse
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Task = Literal["tile", "tile-stain", "stain", "extract", "decode"]

RUNNERS: Final = Path(__file__).parent / "runners"
_MARKER: Final = "requested.txt"  # written last: an environment without it is not finished
_PREFIXES: Final[dict[Task, str]] = {
    "tile": "tile_",  # a script named after its peer would hide it from the import
    "tile-stain": "tile_",
    "stain": "stain_",
    "extract": "extract_",
    "decode": "decode_",
}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another way to do what the pipeline does, and what it needs to be run.

    Attributes:
        name: Of the peer and of its environment.
        python: Version of the interpreter, as in ``python3.11``.
        requirements: What pip installs, exact versions.
        runner: Stem of its scripts in ``runners``, after the prefix of a task.
        does: The tasks it has a runner for.
        without_deps: What pip installs after that without looking at its dependencies, since
            some of them cannot be had or are not needed.
        isolated: Whether those are built apart; else with what is installed, where building
            apart would fetch another torch.
    """

    name: str
    python: str
    requirements: tuple[str, ...]
    runner: str
    does: tuple[Task, ...]
    without_deps: tuple[str, ...] = ()
    isolated: bool = True

    def script(self, task: Task) -> Path:
        """The script that does a task, to be run with the peer's own python."""
        return RUNNERS / f"{_PREFIXES[task]}{self.runner}.py"


_TORCH: Final = ("torch==2.13.0", "torchvision==0.28.0", "timm==1.0.31")
_OPENSLIDE: Final = ("openslide-python==1.4.7", "openslide-bin==4.0.1.2")
# staintools asks for spams, which has no wheel; spams-bin provides the module
_STAINTOOLS: Final = (
    "numpy==2.4.6",
    "scipy==1.17.1",
    "scikit-learn==1.9.1",
    "matplotlib==3.11.2",
    "opencv-python-headless==5.0.0.93",
)
_STAINTOOLS_BARE: Final = ("staintools==2.1.2", "spams-bin==2.6.14")

PEERS: Final = (
    Peer(
        name="plain_loop",
        python="3.11",
        requirements=(*_OPENSLIDE, "pillow==13.0.0", *_STAINTOOLS, *_TORCH),
        without_deps=_STAINTOOLS_BARE,
        runner="plain_loop",
        does=("tile", "tile-stain", "extract"),
    ),
    Peer(
        name="lazyslide",
        python="3.11",
        requirements=("lazyslide==0.13.0", "torchstain==1.4.1", *_OPENSLIDE, *_TORCH),
        runner="lazyslide",
        does=("tile", "tile-stain", "extract"),
    ),
    Peer(
        name="ratiopath",
        python="3.12",
        # it asks for torch too, for its training alone: gigabytes that tiling does not import
        requirements=(
            "ray[data]==2.56.1",
            "openslide-python==1.4.7",
            "openslide-bin==4.0.1.2",
            "pyvips-binary==8.18.2",
            "pyvips==3.2.0",
            "imagecodecs==2026.6.26",
            "tifffile==2026.7.14",
            "zarr==3.2.1",
            "numpy==2.4.6",
            "pandas==2.3.3",
            "pillow==13.0.0",
            "scikit-image==0.26.0",
            "shapely==2.2.0",
            "rasterio==1.4.4",
        ),
        without_deps=("ratiopath==1.5.0",),
        runner="ratiopath",
        does=("tile",),
    ),
    Peer(
        name="atlaspatch",
        python="3.11",
        # it asks for torch and hydra too, for its network that finds tissue (see ABSENT)
        requirements=(
            *_OPENSLIDE,
            "numpy==2.4.6",
            "pillow==13.0.0",
            "h5py==3.16.0",
            "opencv-python-headless==5.0.0.93",
            "tqdm==4.70.1",
            "click==8.5.1",
            "huggingface-hub==1.32.0",
        ),
        without_deps=("atlas-patch==1.1.0",),
        runner="atlaspatch",
        does=("tile",),
    ),
    Peer(
        name="fastslide",
        python="3.11",
        requirements=("numpy==2.4.6",),
        without_deps=("fastslide==0.8.1",),
        runner="fastslide",
        does=("decode",),
    ),
    Peer(
        name="microtome-wsi",
        python="3.11",
        requirements=("numpy==2.4.6", "microtome-wsi==0.1.0"),
        runner="microtome",
        does=("decode",),
    ),
    Peer(
        name="cucim",
        python="3.11",
        # without cupy, which reading on a CPU does not import
        requirements=("numpy==2.4.6", "lazy-loader==0.5", "scipy==1.17.1", "click==8.5.1"),
        without_deps=("cucim-cu12==26.10.0",),
        runner="cucim",
        does=("decode",),
    ),
    Peer(
        name="tiatoolbox",
        python="3.11",
        requirements=("tiatoolbox==2.1.3", "torch==2.12.1", "torchvision==0.27.1"),
        runner="tiatoolbox",
        does=("tile", "tile-stain", "extract"),
    ),
    Peer(
        name="histolab",
        python="3.10",
        requirements=(
            "histolab==0.7.0",
            "numpy==1.24.4",
            "large-image==1.30.3",  # reads at a resolution in µm, which histolab asks it to
            "tifftools==1.7.0",
            "openslide-bin==4.0.1.2",
        ),
        # it asks for openslide-python below 1.3.2, which does not look for openslide-bin
        without_deps=("openslide-python==1.4.7", "large-image-source-openslide==1.30.3"),
        runner="histolab",
        does=("tile", "tile-stain"),
    ),
    Peer(
        name="hs2p",
        python="3.11",
        requirements=("hs2p==6.1.0", *_OPENSLIDE),
        runner="hs2p",
        does=("tile",),
    ),
    Peer(
        name="slide2vec",
        python="3.11",
        # without wandb, and what hs2p could read and segment by besides: cupy, sam2, vips
        requirements=(
            "hs2p==6.1.0",
            *_OPENSLIDE,
            *_TORCH,
            "omegaconf==2.3.0",
            "rich==15.0.0",
            "transformers==4.57.6",
            "einops==0.8.2",
            "einops-exts==0.0.4",
        ),
        without_deps=("slide2vec==7.1.4",),
        runner="slide2vec",
        does=("extract",),
    ),
    Peer(
        name="slideflow",
        python="3.11",
        requirements=(
            "setuptools==80.9.0",  # 81 and later lack pkg_resources
            "numpy==1.26.4",
            "opencv-python-headless==4.11.0.86",
            "scikit-image==0.24.0",
            "zarr==2.18.7",
            "pandas==3.0.6",
            "scipy==1.17.1",
            "scikit-learn==1.9.1",
            "matplotlib==3.11.2",
            "seaborn==0.13.2",
            "shapely==2.2.0",
            "rasterio==1.4.4",
            "pillow==13.0.0",
            "imageio==2.38.1",
            "protobuf==3.20.3",
            "crc32c==2.9.post0",
            "fpdf2==2.8.9",
            "requests==2.34.2",
            "rich==15.0.0",
            "tabulate==0.10.0",
            "tqdm==4.70.1",
            "click==8.5.1",
            "pyarrow==26.0.1",
            "torch==2.13.0",
            "torchvision==0.28.0",
        ),
        # tiling needs none of its hyperparameter search, windows and maps, nor of cuCIM's cupy
        without_deps=("slideflow==3.0.2", "cucim-cu12==26.10.0"),
        runner="slideflow",
        does=("tile", "tile-stain"),
    ),
    Peer(
        name="staintools",
        python="3.11",
        requirements=_STAINTOOLS,
        without_deps=_STAINTOOLS_BARE,
        runner="staintools",
        does=("stain",),
    ),
    Peer(
        name="torchstain",
        python="3.11",
        requirements=("torchstain==1.4.1", "numpy==2.4.6", "scipy==1.17.1"),
        runner="torchstain",
        does=("stain",),
    ),
    Peer(
        name="stainx",
        python="3.11",
        requirements=(
            "torch==2.13.0",
            "numpy==2.4.6",
            "setuptools==80.9.0",
            "wheel==0.45.1",
            "ninja==1.13.0",
            "pybind11==3.0.1",
        ),
        without_deps=("stainx==0.1.6",),
        isolated=False,
        runner="stainx",
        does=("stain",),
    ),
)

ABSENT: Final = (
    "STAMP is in no package registry, where the name is another program's",
    "slide2vec 7 cuts tiles by hs2p: its row is that one",
    "AtlasPatch is given Otsu's mask: its own network for tissue takes weights from a hub",
)  # of tiling: what a reader of its table must know of peers that are not, or not whole, in it


def prepare(peer: Peer, folder: Path) -> Path | str:
    """Make a peer's environment, or find it finished from an earlier call.

    Returns:
        The path of its python, or one sentence that says why it could not be installed.
    """
    home = folder / peer.name
    python = home / "bin" / "python"
    marker = home / _MARKER
    wanted = "\n".join((peer.python, *peer.requirements, *peer.without_deps, ""))
    if marker.is_file() and marker.read_text() == wanted:
        return python
    marker.unlink(missing_ok=True)
    # pyenv's python3.X is a stub that runs only where that version is chosen
    chosen = os.environ | {"PYENV_VERSION": peer.python}
    steps = [[f"python{peer.python}", "-m", "venv", "--clear", str(home)]]
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps.append([*install, *peer.requirements])
    if peer.without_deps:
        shared = [] if peer.isolated else ["--no-build-isolation"]
        steps.append([*install, "--no-deps", *shared, *peer.without_deps])
    for step in steps:
        try:
            done = subprocess.run(step, env=chosen, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return f"python{peer.python} is not on the PATH."
        if done.returncode:
            return _reason(done.stderr or done.stdout)
    marker.write_text(wanted)
    return python


def _reason(output: str) -> str:
    """The last line that names an error; pip closes with notices and hints that do not."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    last = (errors or lines or ["The command failed without a word"])[-1]
    return last.rstrip(".") + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="where the environments lie")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for peer in PEERS:
        print(f"{peer.name}: {prepare(peer, given.folder.resolve())}", flush=True)


if __name__ == "__main__":
    main()
