"""Is everything here that the work needs? And which encoders are?

``wsi doctor`` looks at what a person has: packages, device, slide library, disk, hub, encoders; and
takes a small slide of its own making from tiles to features. ``wsi encoders`` lists the table.
"""

import json
import os
import platform
import shutil
import subprocess  # nosec B404  one fixed command, below
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np

from wsi_pipeline.errors import EncoderError, WsiError
from wsi_pipeline.events import Event, Note, SlideDone, SlideFailed, StageStarted
from wsi_pipeline.features import (
    PUBLISHED,
    Asked,
    PublishedEncoder,
    bring_commands,
    choose_device,
    find_published,
    hub_answers,
    identify,
    is_cached,
    read_features,
)
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.slides import READERS, slide_suffixes
from wsi_pipeline.verbs.machine import DoctorConfig, EncodersConfig
from wsi_pipeline.verbs.tiles import ExtractConfig, TileConfig

PACKAGES: Final = (
    "wsi-pipeline", "torch", "torchvision", "timm", "numpy", "opencv-python-headless", "tifffile",
    "imagecodecs", "openslide-python", "tiffslide", "zarr", "h5py", "dask",
    "scikit-learn", "huggingface_hub",
)  # fmt: skip
EXTRAS: Final = ("transformers", "openvino", "anndata", "aiohttp", "s3fs")
PROBE_BYTES: Final = 128 << 20
PLAIN: Final = "test_resnet"  # timm's smallest network: the self-test asks the machine, not the hub
Found = tuple[str, str | None]  # what was found; what is wrong with it, None for nothing


def run(config: DoctorConfig) -> Iterator[Event]:
    """Look at each thing in turn; what was asked for and does not work fails."""
    checks: dict[str, Callable[[DoctorConfig], Found]] = {
        "python": _python, "packages": _packages, "device": _device, "slides": _slides,
        "disk": _disk, "hub": _hub, "encoders": _encoders,
    }  # fmt: skip
    asked = [f"encoder {name}" for name in config.encoder]
    total = len(checks) + len(asked) + config.selftest
    yield StageStarted(stage="doctor", total=total, unit="checks")
    for name, check in checks.items():
        yield from _told(name, lambda check=check: check(config))  # type: ignore[misc]
    for name in config.encoder:
        yield from _told(f"encoder {name}", lambda name=name: _asked(name, config))  # type: ignore[misc]
    if config.selftest:
        yield from _told("self-test", lambda: _selftest(config))


def encoders(config: EncodersConfig) -> Iterator[Event]:
    """List the published encoders, and whether their weights are here."""
    if config.json_:
        rows = [
            asdict(entry) | {"state": _state(entry)[0], "bring": _state(entry)[1]}
            for entry in PUBLISHED.values()
        ]
        yield Note(text=json.dumps(rows, indent=1, ensure_ascii=False))
        return
    wide = max(map(len, PUBLISHED))
    yield Note(text=f"{'encoder':<{wide}}  width  input  µm/px  weights          licence")
    for name, entry in PUBLISHED.items():
        seen = f"{entry.input_px} px" if entry.input_px else "as cut"
        mpp = "any" if entry.mpp is None else f"{entry.mpp:g}"
        yield Note(
            text=f"{name:<{wide}}  {entry.width:>5}  {seen:>6}  {mpp:>5}  {_state(entry)[0]:<15}  "
            f"{entry.licence}"
        )
    yield Note(text="any timm model, hf-hub:owner/model and module:function work too")


def _told(name: str, check: Callable[[], Found]) -> Iterator[Event]:
    begun = time.monotonic()
    try:
        found, wrong = check()
    except (WsiError, OSError, RuntimeError, ImportError) as error:
        found, wrong = "", " ".join(str(error).split())
    if found:
        yield Note(text=f"{name}: {found}")
    if wrong:
        yield SlideFailed(slide_id=name, error=wrong)
    else:
        yield SlideDone(slide_id=name, seconds=time.monotonic() - begun)


def _python(_: DoctorConfig) -> Found:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if os.name == "posix" else 0
    told = f", {memory / 1e9:.0f} GB of memory" if memory else ""
    return (
        (
            f"{platform.python_version()} on {platform.system()} {platform.machine()}, "
            f"{os.cpu_count()} cores{told}"
        ),
        None,
    )


def _packages(_: DoctorConfig) -> Found:
    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    found = {name: version(name) for name in (*PACKAGES, *EXTRAS)}
    lost = [name for name in PACKAGES if found[name] is None]
    told = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    extras = [name for name in EXTRAS if found[name] is None]
    told += f"; not here, and only needed for some: {', '.join(extras)}" if extras else ""
    return told, f"missing: pip install {' '.join(lost)}" if lost else None


def _device(config: DoctorConfig) -> Found:
    import torch

    device = choose_device(config.device)
    if device.type != "cuda":
        there = "no CUDA device" if not torch.cuda.is_available() else "CUDA is there, not used"
        mps = ", MPS is there" if torch.backends.mps.is_available() else ""
        return f"{device}, {torch.get_num_threads()} threads; {there}{mps}", None
    free, total = torch.cuda.mem_get_info(device)
    half = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    memory = f"{free / 1e9:.0f} of {total / 1e9:.0f} GB free"
    versions = f"CUDA {torch.version.cuda}, driver {_driver()}"
    return f"{device}: {torch.cuda.get_device_name(device)}, {memory}, {versions}, {half}", None


def _driver() -> str:
    try:
        told = subprocess.run(  # nosec B603 B607  words of ours; where the driver lies differs
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told.stdout.split("\n", 1)[0].strip()


def _slides(_: DoctorConfig) -> Found:
    import openslide

    return (
        (
            f"OpenSlide {openslide.__library_version__}; readers {', '.join(READERS)}; files "
            f"{' '.join(sorted(slide_suffixes()))}"
        ),
        None,
    )


def _disk(config: DoctorConfig) -> Found:
    """Write and read a file of 128 MB; reading may come from the system's memory."""
    block = np.random.default_rng(0).bytes(1 << 20)
    with tempfile.NamedTemporaryFile(dir=config.folder, prefix=".doctor-") as file:
        begun = time.perf_counter()
        for _ in range(PROBE_BYTES >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - begun
        file.seek(0)
        begun = time.perf_counter()
        while file.read(1 << 20):
            pass
        read = time.perf_counter() - begun
    free = shutil.disk_usage(config.folder).free
    return (
        (
            f"{config.folder.resolve()}: writes {PROBE_BYTES / written / 1e6:.0f} MB/s, reads "
            f"{PROBE_BYTES / read / 1e6:.0f} MB/s (from memory, maybe), {free / 1e9:.0f} GB free"
        ),
        None,
    )


def _hub(_: DoctorConfig) -> Found:
    import huggingface_hub

    endpoint, reason = hub_answers()
    token = "a token is set" if huggingface_hub.get_token() else "no token: hf auth login"
    return f"{endpoint}: {reason or 'answers'}; {token}", None


def _encoders(_: DoctorConfig) -> Found:
    """Tell which weights are here; without --encoder none of them was asked for."""
    by_state: dict[str, list[str]] = {}
    for name, entry in PUBLISHED.items():
        by_state.setdefault(_state(entry)[0], []).append(name)
    return "; ".join(f"{state}: {', '.join(names)}" for state, names in by_state.items()), None


def _state(entry: PublishedEncoder) -> tuple[str, str]:
    """Return whether an encoder's weights are here, and what to do where they are not."""
    if is_cached(entry):
        return "here", ""
    if not entry.hub:
        return "by hand" if entry.by_hand else "on the hub", f"see {entry.page}"
    login, download = bring_commands(entry)
    first = f"ask for access at {entry.page}, then " if entry.gated else ""
    return "gated" if entry.gated else "on the hub", f"{first}'{login}' and '{download}'"


def _asked(name: str, config: DoctorConfig) -> Found:
    """Locate an encoder that was asked for; where it is not here, say what brings it."""
    entry = find_published(name)
    try:
        tag = identify(Asked(name=name, weights=config.weights)).tag
    except EncoderError as error:
        if entry is None or config.weights not in ("auto", "hub"):
            raise
        state, remedy = _state(entry)
        return "", f"{state}: {remedy}" if remedy else str(error)
    if entry is None:
        return f"here, as {tag}", None
    note = f" {entry.note}" if entry.note else ""
    return f"here, as {tag}; {entry.licence}, {entry.page}.{note}", None


def _selftest(config: DoctorConfig) -> Found:
    """Take one made slide from tiles to features on the device."""
    from wsi_pipeline.pipeline import extract, tile
    from wsi_pipeline.synthetic import plan_cohort, write_slide

    encoder, weights = _runnable(config)
    with tempfile.TemporaryDirectory(dir=config.folder, prefix=".doctor-") as folder:
        slides = Path(folder, "slides")
        slides.mkdir()
        spec = plan_cohort(0, patients_per_label=2, side_px=1536, tma_grid=(0, 0))[0]
        write_slide(spec, slides)
        begun, run_folder = time.perf_counter(), Path(folder, "run")
        tiling = TileConfig.from_mapping({"cohort": slides, "run": run_folder}, "self-test")
        _require_whole(tile.run(tiling))
        cut = time.perf_counter()
        how = {"run": run_folder, "encoder": encoder, "weights": weights, "device": config.device}
        _require_whole(extract.run(ExtractConfig.from_mapping(how, "self-test")))
        done = time.perf_counter()
        stores = sorted(RunFolder(run_folder).features.rglob("*.h5"))
        bag = read_features(stores[0])
    if not np.isfinite(bag.features).all() or np.ptp(bag.features) == 0:
        return "", f"{encoder}: the features of a made slide are not finite, or all the same"
    return (
        (
            f"{len(bag)} tiles of a made slide cut in {cut - begun:.1f} s, encoded by {encoder} in "
            f"{done - cut:.1f} s, {bag.features.shape[1]} wide"
        ),
        None,
    )


def _runnable(config: DoctorConfig) -> tuple[str, str]:
    """Return the encoder that was asked for where it is here, else one that needs no weights."""
    for name in config.encoder[:1]:
        try:
            identify(Asked(name=name, weights=config.weights))
        except EncoderError:
            break  # which its own check tells
        return name, config.weights
    return PLAIN, "random"


def _require_whole(events: Iterator[Event]) -> None:
    """Run a stage to its end.

    Raises:
        WsiError: A slide failed.
    """
    for event in events:
        if isinstance(event, SlideFailed):
            raise WsiError(event.error)
