"""Tiles to features: one stream of batches over all slides for one device, or slides over workers.

A slide's features do not depend on which of the two was used, nor on where a run was interrupted.
"""

import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from filelock import FileLock, Timeout
from pydantic import Field
from pydantic_settings import CliPositionalArg

from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.config import HOW, StageConfig
from wsi_pipeline.engine import SlideTask, is_done, lock_path, map_slides, provenance
from wsi_pipeline.errors import ConfigError, WsiError
from wsi_pipeline.events import (
    Event,
    Note,
    Planned,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
    StageStarted,
    Written,
)

if TYPE_CHECKING:
    from wsi_pipeline.features.encoder import Encoder
    from wsi_pipeline.features.sources import StoreTiles
    from wsi_pipeline.features.stream import Encoded, Timings
    from wsi_pipeline.types import RgbTiles

PACKAGES: Final = ("torch", "timm", "numpy", "h5py")
DONE: Final = "extracted earlier"
NO_TILES: Final = "no tile store"
POLL_SECONDS: Final = 0.5


class ExtractConfig(StageConfig):
    """Encode every tile of a run folder; one feature store a slide."""

    run: Annotated[CliPositionalArg[Path], HOW] = Field(description="Run folder.")
    encoder: str = Field(
        default="densenet121",
        description="A timm model, with or without its weights' tag (densenet121.tv_in1k), "
        "hf-hub:owner/model, or module:function for one of your own.",
    )
    weights: str = Field(
        default="auto",
        description="auto or hub (the hub or its cache), package, random, or a .safetensors or "
        ".pth file.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto is half precision on a GPU, fp32 elsewhere."
    )
    dtype: Literal["float32", "float16"] = Field(
        default="float32", description="Of the features on disk."
    )
    device: Annotated[str, HOW] = Field(
        default="auto", description="auto, cpu, cuda, cuda:N or mps."
    )
    batch: Annotated[int | None, HOW] = Field(
        default=None, ge=1, description="Tiles of one forward pass; chosen by device if not given."
    )
    compile: Annotated[bool, HOW] = Field(
        default=False, description="Use torch.compile: slow to start, then faster."
    )

    @property
    def log_folder(self) -> Path | None:
        return self.run / "logs"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One slide's work order."""

    slide_id: str
    tiles: Path
    target: Path
    count: int
    tile_px: int
    asked: Mapping[str, Any]  # what decides the result, as stored with it


def run(config: ExtractConfig) -> Iterator[Event]:
    """Write ``features/<encoder tag>/<slide_id>.h5`` for every tile store of the run folder.

    Raises:
        ConfigError: The run folder holds no tiles.
        CohortError: Its cohort table is unusable.
        EncoderError: The encoder is unknown, or its weights cannot be had.
    """
    from wsi_pipeline.features import encoder_tag

    slides = _slides(config.run)
    tag = encoder_tag(config.encoder, config.weights)
    yield StageStarted(stage="extract", total=len(slides))
    jobs: list[_Job] = []
    for slide_id, store in slides.items():
        outcome = _look(config, tag, slide_id, store)
        if isinstance(outcome, _Job):
            jobs.append(outcome)
        else:
            yield outcome
    if config.dry_run:
        yield from map(_planned, jobs)
        return
    if jobs and (config.workers or config.scheduler):
        yield from map_slides(extract_slide, [_task(config, job) for job in jobs], config)
    elif jobs:
        yield from _stream(config, jobs)
    yield Written(path=str(config.run / "features" / tag), what="features")


def extract_slide(payload: tuple[ExtractConfig, _Job]) -> SlideDone | SlideSkipped:
    """Encode one slide; the caller holds its lock.

    Raises:
        WsiError: The slide's tiles or the encoder cannot be used.
    """
    from wsi_pipeline.features.sources import StoreTiles
    from wsi_pipeline.features.stream import Encoded, encode_slides

    config, job = payload
    if _is_done(config, job):
        return SlideSkipped(slide_id=job.slide_id, reason=DONE)
    started = time.monotonic()
    encoder = _kept_encoder(config)
    source = StoreTiles(job.slide_id, job.tiles)
    for step in encode_slides(encoder, [source], job.tile_px):
        if isinstance(step, Encoded):
            if step.error is not None:
                raise step.error
            _write(config, job, encoder, source, step)
    return _done(job, len(source.coords), started)


def _slides(folder: Path) -> dict[str, Path | None]:
    """Return each slide's tile store, in the cohort's order; None where it has none."""
    stores = {
        path.stem: path
        for suffix in (".h5", ".zarr")
        for path in sorted((folder / "tiles").glob(f"*{suffix}"))
        if not path.name.startswith(".")
    }
    if not stores:
        raise ConfigError(
            f"{folder / 'tiles'}: no tile stores there; run `python -m wsi_pipeline.tile` first"
        )
    table = folder / "cohort.csv"
    if not table.exists():
        return dict(sorted(stores.items()))
    return {slide.slide_id: stores.get(slide.slide_id) for slide in read_cohort(table)}


def _look(
    config: ExtractConfig, tag: str, slide_id: str, store: Path | None
) -> _Job | SlideSkipped | SlideFailed:
    """Decide whether a slide has to be encoded."""
    from wsi_pipeline.features.sources import store_digest
    from wsi_pipeline.tiles import open_tiles

    if store is None:
        return SlideSkipped(slide_id=slide_id, reason=NO_TILES)
    try:
        tiles = open_tiles(store)
        job = _Job(
            slide_id=slide_id,
            tiles=store,
            count=len(tiles),
            tile_px=tiles.tiles.shape[1],
            target=config.run / "features" / tag / f"{slide_id}.h5",
            asked={
                "encoder": tag,
                "precision": config.precision,
                "dtype": config.dtype,
                "input": store_digest(tiles),
            },
        )
        done = _is_done(config, job)
    except WsiError as error:
        return SlideFailed(slide_id=slide_id, error=str(error))
    return SlideSkipped(slide_id=slide_id, reason=DONE) if done else job


def _is_done(config: ExtractConfig, job: _Job) -> bool:
    from wsi_pipeline.features import read_attributes

    stored = read_attributes(job.target).get("made_from", {}) if job.target.exists() else None
    return is_done(job.target, stored, job.asked, overwrite=config.overwrite)


def _planned(job: _Job) -> Planned:
    return Planned(
        row={"slide": job.slide_id, "tiles": job.count, "features": str(job.target.parent.name)}
    )


def _task(config: ExtractConfig, job: _Job) -> SlideTask:
    return SlideTask(slide_id=job.slide_id, lock=_lock_path(config, job), payload=(config, job))


def _lock_path(config: ExtractConfig, job: _Job) -> Path:
    return lock_path(config.run, f"extract-{job.target.parent.name}", job.slide_id)


def _stream(config: ExtractConfig, jobs: list[_Job]) -> Iterator[Event]:
    """Encode all slides on this process's device; those another process holds come last."""
    from wsi_pipeline.features.stream import Begun, Timings, encode_slides

    encoder = _encoder(config)
    clock, started, tiles = Timings(), time.monotonic(), 0
    while jobs:
        claims = {job.slide_id: _Claim(config, job) for job in jobs}
        busy: list[_Job] = []
        with ExitStack() as stack:
            for claim in claims.values():
                stack.callback(claim.release)
            for step in encode_slides(encoder, claims.values(), jobs[0].tile_px, clock):
                if isinstance(step, Begun):
                    yield SlideStarted(slide_id=step.slide_id)
                    continue
                claim = claims[step.slide_id]
                event = _finish(config, claim, encoder, step)
                claim.release()
                if event is None:
                    busy.append(claim.job)
                    continue
                tiles += len(step.features)
                yield event
        if len(busy) == len(jobs):
            time.sleep(POLL_SECONDS)
        jobs = busy
    yield _speed(encoder, clock, tiles, time.monotonic() - started)


@dataclass
class _Claim:
    """A slide in the stream: its lock is taken when its turn to be read comes."""

    config: ExtractConfig
    job: _Job
    lock: FileLock | None = None
    started: float = 0.0
    source: "StoreTiles | None" = None

    @property
    def slide_id(self) -> str:
        return self.job.slide_id

    def read(self) -> "Iterator[RgbTiles]":
        """Yield the tiles, unless another process has the slide or has finished it."""
        from wsi_pipeline.features.sources import StoreTiles

        self.started = time.monotonic()
        path = _lock_path(self.config, self.job)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)  # taken in the reader's thread, not let go there
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise _BusyError from None
        self.lock = lock
        if _is_done(self.config, self.job):
            raise _DoneError
        self.source = StoreTiles(self.job.slide_id, self.job.tiles)
        yield from self.source.read()

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()
            self.lock = None


class _BusyError(Exception):
    """Another process is working on the slide."""


class _DoneError(Exception):
    """Another process has finished the slide in the meantime."""


def _finish(
    config: ExtractConfig, claim: _Claim, encoder: "Encoder", step: "Encoded"
) -> Event | None:
    """Write a slide that is through the stream and tell its fate; None if it is another's."""
    job, error = claim.job, step.error
    if isinstance(error, _BusyError):
        return None
    if isinstance(error, _DoneError):
        return SlideSkipped(slide_id=job.slide_id, reason=DONE)
    try:
        if error is not None:
            raise error
        assert claim.source is not None
        _write(config, job, encoder, claim.source, step)
    except WsiError as problem:
        return SlideFailed(slide_id=job.slide_id, error=str(problem))
    except Exception as problem:  # noqa: BLE001  a bug in one slide must not end the night's batch
        return SlideFailed(
            slide_id=job.slide_id,
            error=f"unexpected {type(problem).__name__}: {problem}; please report it",
            traceback="".join(traceback.format_exception(problem)),
        )
    return _done(job, len(step.features), claim.started)


def _write(
    config: ExtractConfig, job: _Job, encoder: "Encoder", source: "StoreTiles", step: "Encoded"
) -> None:
    from wsi_pipeline.features import write_features
    from wsi_pipeline.features.sources import describe_features

    about = {
        "made_from": dict(job.asked),
        "input_digest": job.asked["input"],
        "encoder_provenance": encoder.provenance,
        "versions": provenance(PACKAGES),
    }
    meta = describe_features(job.slide_id, encoder.tag, source.attributes, about)
    write_features(job.target, step.features, source.coords, meta, config.dtype)


def _done(job: _Job, tiles: int, started: float) -> SlideDone:
    return SlideDone(
        slide_id=job.slide_id,
        counts={"tiles encoded": tiles},
        seconds=time.monotonic() - started,
    )


def _speed(encoder: "Encoder", clock: "Timings", tiles: int, seconds: float) -> Note:
    """Say where the time went: reading runs beside encoding, waiting is what it failed to hide."""
    limit = "reading tiles" if clock.wait_s > clock.encode_s else "the encoder"
    return Note(
        text=f"{tiles} tiles in {seconds:.1f} s ({tiles / max(seconds, 1e-9):.0f}/s) on "
        f"{encoder.device}, {encoder.precision}: encoding {clock.encode_s:.1f} s, waiting for "
        f"tiles {clock.wait_s:.1f} s, reading beside it {clock.read_s:.1f} s; {limit} limits"
    )


@lru_cache(maxsize=1)  # a worker process encodes many slides with one model
def _kept_encoder(config: ExtractConfig) -> "Encoder":
    return _encoder(config)


def _encoder(config: ExtractConfig) -> "Encoder":
    from wsi_pipeline.features import load_encoder

    return load_encoder(
        config.encoder, config.weights, worker_device(config.device), precision=config.precision,
        batch_size=config.batch, compile_model=config.compile,
    )  # fmt: skip


def worker_device(asked: str) -> str:
    """Spread the workers of a cluster of ours over the GPUs: worker ``i`` takes GPU ``i`` mod n."""
    if asked not in ("auto", "cuda"):
        return asked
    import torch
    from distributed import get_worker

    try:
        name = get_worker().name
    except ValueError:  # not on a worker
        return asked
    count = torch.cuda.device_count()
    return f"cuda:{name % count}" if isinstance(name, int) and count > 1 else asked
