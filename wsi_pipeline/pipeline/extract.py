"""Tiles to features: one stream of batches over all slides for one device, or slides over workers.

A slide's features do not depend on which of the two was used, nor on where a run was interrupted.
"""

import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import lru_cache
from typing import Final

import torch
from distributed import get_worker

from wsi_pipeline.engine import SlideTask, map_slides, provenance
from wsi_pipeline.errors import NoTissueError, UsageError, WsiError
from wsi_pipeline.events import (
    Event,
    Note,
    Planned,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
    StageStarted,
    TimeSpent,
    Written,
)
from wsi_pipeline.features import encoder_tag, load_encoder, write_features
from wsi_pipeline.features.encoder import Encoder
from wsi_pipeline.features.sources import SlideSource, describe_features
from wsi_pipeline.features.stream import Begun, Encoded, encode_slides
from wsi_pipeline.pipeline.configs import ExtractConfig
from wsi_pipeline.pipeline.extract_jobs import (
    DONE,
    BusyError,
    Claim,
    DoneError,
    ExtractJob,
    find_decisions,
    find_origins,
    look,
    strangers,
    undecidable,
    without_tiles,
)
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.timing import WAIT, Stopwatch

PACKAGES: Final = ("torch", "timm", "numpy", "h5py")
NO_TISSUE: Final = "no tissue"
POLL_SECONDS: Final = 0.5


def run(config: ExtractConfig) -> Iterator[Event]:
    """Write ``features/<encoder tag>/<slide_id>.h5`` for every tile store of the run folder.

    Tiles and slides that ``qc/decisions.csv`` drops are left out.

    Raises:
        ConfigError: The run folder holds no tiles, or no slides are named.
        CohortError: The cohort table or the table of decisions is unusable.
        EncoderError: The encoder is unknown, or its weights cannot be had.
    """
    tag = encoder_tag(config.encoder, config.weights)
    origins, decisions = list(find_origins(config)), find_decisions(config)
    yield StageStarted(stage="extract", total=len(origins))
    yield from strangers(config)
    yield from undecidable(decisions, [slide_id for slide_id, _ in origins])
    jobs: list[ExtractJob] = []
    yield from without_tiles(config, [name for name, origin in origins if not origin], decisions)
    for slide_id, origin in origins:
        if origin is None:
            continue
        outcome = (
            origin if isinstance(origin, Event) else look(config, tag, slide_id, origin, decisions)
        )
        if isinstance(outcome, ExtractJob):
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
    yield Written(path=str(RunFolder(config.run).features_of(tag)), what="features")


def extract_slide(payload: tuple[ExtractConfig, ExtractJob]) -> SlideDone | SlideSkipped:
    """Encode one slide; the caller holds its lock.

    Raises:
        WsiError: The slide's tiles or the encoder cannot be used.
    """
    config, job = payload
    if job.is_done(overwrite=config.overwrite):
        return SlideSkipped(slide_id=job.slide_id, reason=DONE)
    started = time.monotonic()
    encoder = _kept_encoder(config)
    source = job.open(config)
    watch = Stopwatch(keep_spans=config.profile)
    for step in encode_slides(encoder, [source], job.tile_px, watch):
        if isinstance(step, Encoded):
            if isinstance(step.error, NoTissueError):
                return SlideSkipped(slide_id=job.slide_id, reason=NO_TISSUE)
            if step.error is not None:
                raise step.error
            with watch.phase("write"):
                _write(config, job, encoder, source, step)
    return _done(job, source, started, watch)


def _planned(job: ExtractJob) -> Planned:
    return Planned(
        row={"slide": job.slide_id, "tiles": job.tiles, "features": job.target.parent.name}
    )


def _task(config: ExtractConfig, job: ExtractJob) -> SlideTask:
    return SlideTask(slide_id=job.slide_id, lock=job.lock_path(config.run), payload=(config, job))


def _stream(config: ExtractConfig, jobs: list[ExtractJob]) -> Iterator[Event]:
    """Encode all slides on this process's device; those another process holds come last."""
    encoder = _encoder(config, config.device)
    watch, started, tiles = Stopwatch(keep_spans=config.profile), time.monotonic(), 0
    while jobs:
        claims = {job.slide_id: Claim(job, config) for job in jobs}
        busy: list[ExtractJob] = []
        with ExitStack() as stack:
            for claim in claims.values():
                stack.callback(claim.release)
            steps = stack.enter_context(
                closing(encode_slides(encoder, claims.values(), jobs[0].tile_px, watch))
            )
            for step in steps:
                if isinstance(step, Begun):
                    yield SlideStarted(slide_id=step.slide_id)
                    continue
                claim = claims[step.slide_id]
                event = _finish(claim, encoder, step, watch)
                claim.release()
                if event is None:
                    busy.append(claim.job)
                    continue
                tiles += len(step.features)
                yield event
        if len(busy) == len(jobs):
            time.sleep(POLL_SECONDS)
        jobs = busy
    seconds = time.monotonic() - started
    yield Note(
        text=f"{tiles} tiles in {seconds:.1f} s ({tiles / max(seconds, 1e-9):.0f}/s) on "
        f"{encoder.device}, {encoder.precision}"
    )
    yield TimeSpent(phases=dict(watch.seconds), spans=tuple(watch.spans))


def _finish(claim: Claim, encoder: Encoder, step: Encoded, watch: Stopwatch) -> Event | None:
    """Write a slide that is through the stream and tell its fate; None if it is another's."""
    job, error = claim.job, step.error
    if isinstance(error, BusyError):
        return None
    if isinstance(error, DoneError):
        return SlideSkipped(slide_id=job.slide_id, reason=DONE)
    if isinstance(error, NoTissueError):
        return SlideSkipped(slide_id=job.slide_id, reason=NO_TISSUE)
    try:
        if error is not None:
            raise error
        assert claim.source is not None
        with watch.phase("write"):
            _write(claim.config, job, encoder, claim.source, step)
    except UsageError:
        raise
    except WsiError as problem:
        return SlideFailed(slide_id=job.slide_id, error=str(problem))
    except Exception as problem:  # noqa: BLE001  a bug in one slide must not end the night's batch
        return SlideFailed(
            slide_id=job.slide_id,
            error=f"unexpected {type(problem).__name__}: {problem}; please report it",
            traceback="".join(traceback.format_exception(problem)),
        )
    assert claim.source is not None
    return _done(job, claim.source, claim.started)


def _write(
    config: ExtractConfig,
    job: ExtractJob,
    encoder: Encoder,
    source: SlideSource,
    step: Encoded,
) -> None:
    about = {
        "made_from": dict(job.made_from),
        "input_digest": job.made_from["input"],
        "encoder_provenance": encoder.provenance,
        "versions": provenance(PACKAGES),
    }
    meta = describe_features(job.slide_id, encoder.tag, source.attributes, about)
    write_features(job.target, step.features, source.coords, meta, config.dtype)


def _done(
    job: ExtractJob, source: SlideSource, started: float, watch: Stopwatch | None = None
) -> SlideDone:
    """Tell what became of a slide; ``watch`` has the network's time, where it is the slide's own.

    What the source waited for is left out: the network waits for the source, and that is counted.
    """
    phases = {name: spent for name, spent in source.watch.seconds.items() if name != WAIT}
    return SlideDone(
        slide_id=job.slide_id,
        counts={"tiles encoded": len(source.coords)},
        seconds=time.monotonic() - started,
        phases=phases | ({} if watch is None else watch.seconds),
        spans=tuple(source.watch.spans + ([] if watch is None else watch.spans)),
    )


@lru_cache(maxsize=1)  # a worker process encodes many slides with one model
def _kept_encoder(config: ExtractConfig) -> Encoder:
    return _encoder(config, worker_device(config.device))


def _encoder(config: ExtractConfig, device: str) -> Encoder:
    return load_encoder(
        config.encoder, config.weights, device, precision=config.precision,
        batch_size=config.batch, kernels=config.kernels,
    )  # fmt: skip


def worker_device(asked: str) -> str:
    """Spread the workers of a cluster of ours over the GPUs: worker ``i`` takes GPU ``i`` mod n."""
    if asked not in ("auto", "cuda"):
        return asked
    try:
        name = get_worker().name
    except ValueError:  # not on a worker
        return asked
    count = torch.cuda.device_count()
    return f"cuda:{name % count}" if isinstance(name, int) and count > 1 else asked
