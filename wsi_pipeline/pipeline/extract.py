"""The extract stage: one stream of batches over all slides for one device, or slides over workers.

A slide's features do not depend on which of the two was used, nor on where a run was interrupted.
"""

import time
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from distributed import get_worker
from filelock import FileLock, Timeout

from wsi_pipeline.engine import (
    GRACE_S,
    Executor,
    SlideTask,
    exceeded,
    fate_of,
    forget,
    kept,
    limits_of,
    map_slides,
    provenance,
)
from wsi_pipeline.errors import SlideError
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
from wsi_pipeline.features import (
    Asked,
    Begun,
    Encoded,
    Encoder,
    Identity,
    SlideSource,
    describe_features,
    encode_slides,
    identify,
    load_encoder,
    own_gpu,
    write_features,
)
from wsi_pipeline.pipeline.extract_jobs import (
    Candidate,
    ExtractJob,
    candidate,
    decide,
    find_decisions,
    find_origins,
    part_of,
    require_same_weights,
    strangers,
    unknown_decisions,
    without_tiles,
)
from wsi_pipeline.pipeline.forecast import VALUE_BYTES, forecast_extract
from wsi_pipeline.pipeline.tile_task import CutTask
from wsi_pipeline.pulse import PULSE, Pulse, pulse_in_hand
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import Decisions, find_store
from wsi_pipeline.timing import WAIT, Stopwatch
from wsi_pipeline.verbs.tiles import ExtractConfig

PACKAGES: Final = ("torch", "timm", "numpy", "h5py")
POLL_SECONDS: Final = 0.5

SlideFate = SlideDone | SlideSkipped | SlideFailed


def run(config: ExtractConfig) -> Iterator[Event]:
    """Write ``features/<encoder tag>/<slide_id>.h5`` for every tile store of the run folder.

    Tiles and slides that ``qc/decisions.csv`` drops are left out.

    Raises:
        ConfigError: The run folder holds no tiles, or no slides are named.
        CohortError: The cohort table or the table of decisions is unusable.
        EncoderError: The encoder is unknown, or its weights cannot be had.
        StoreMismatchError: The run's features were made with other weights of it.
    """
    encoder = identify(asked_of(config))
    require_same_weights(config, encoder)
    origins, decisions = list(find_origins(config)), find_decisions(config)
    yield StageStarted(stage="extract", total=len(origins), part=part_of(config))
    yield from _whole(config, encoder, origins, decisions)


def rest(config: ExtractConfig, told: Collection[str]) -> Iterator[Event]:
    """Do what is left once the slides ``told`` have been encoded store by store.

    Raises:
        ConfigError, CohortError, EncoderError: As :func:`run`.
    """
    forget()
    encoder = identify(asked_of(config))
    origins = [pair for pair in find_origins(config) if pair[0] not in told]
    yield from _whole(config, encoder, origins, find_decisions(config))


def encode_stores(
    config: ExtractConfig, slide_ids: Sequence[str], executor: Executor | None = None
) -> Iterator[Event]:
    """Encode the tile stores of some slides, while others are still being cut.

    Raises:
        CohortError: The table of decisions is unusable.
        EncoderError: The encoder is unknown, or its weights cannot be had.
    """
    encoder, decisions = identify(asked_of(config)), find_decisions(config)
    slides = deque(
        candidate(config, encoder, slide_id, store, decisions)
        for slide_id in slide_ids
        if (store := find_store(RunFolder(config.run).tiles, slide_id)) is not None
    )
    if slides and (config.workers or config.scheduler):
        tasks = [_task(config, slide) for slide in slides]
        yield from map_slides(extract_slide, tasks, config, executor)
        return
    first = yield from _until_work(config, slides)
    if first is not None:
        watch = Stopwatch(keep_spans=config.profile)
        stream = Stream(config, kept_encoder(config), first.tile_px, watch)
        yield from stream.encode(slides)
        yield TimeSpent(phases=dict(watch.seconds), spans=tuple(watch.spans))


Origin = tuple[str, Path | CutTask | Event | None]


def _whole(
    config: ExtractConfig, encoder: Identity, origins: Sequence[Origin], decisions: Decisions
) -> Iterator[Event]:
    """Encode every slide, and say what is wrong with the table, the stores and the decisions."""
    yield from strangers(config)
    yield from unknown_decisions(config, decisions, [name for name, _ in origins])
    yield from without_tiles(config, [name for name, origin in origins if not origin], decisions)
    slides: deque[Candidate] = deque()
    for slide_id, origin in origins:
        if isinstance(origin, Event):
            yield origin
        elif origin is not None:
            slides.append(candidate(config, encoder, slide_id, origin, decisions))
    if config.dry_run:
        yield from _forecast(config, slides)
        return
    if slides and (config.workers or config.scheduler):
        tasks = [_task(config, slide) for slide in slides]
        yield from map_slides(extract_slide, tasks, config)
    else:
        yield from _timed(config, slides)
    yield Written(path=str(RunFolder(config.run).features_of(encoder.tag)), what="features")


def _forecast(config: ExtractConfig, slides: Iterable[Candidate]) -> Iterator[Event]:
    """Say what would be done, and what it would take."""
    tiles = 0
    for slide in slides:
        outcome = decide(config, slide)
        if isinstance(outcome, ExtractJob):
            tiles += outcome.tiles or 0
            yield _planned(outcome)
        else:
            yield outcome
    if tiles:
        value_bytes = VALUE_BYTES[config.dtype]
        yield forecast_extract(RunFolder(config.run), tiles, value_bytes).note()


def _until_work(
    config: ExtractConfig, slides: deque[Candidate]
) -> Generator[SlideFate, None, ExtractJob | None]:
    """Tell the fate of slides up to the first that has to be encoded; return that, which stays.

    No encoder is loaded where everything was done earlier.
    """
    while slides:
        outcome = decide(config, slides[0])
        if isinstance(outcome, ExtractJob):
            return outcome
        slides.popleft()
        yield outcome
    return None


def extract_slide(payload: tuple[ExtractConfig, Candidate]) -> SlideFate:
    """Encode one slide on a worker; the caller holds its lock."""
    config, slide = payload
    pulse_in_hand().beat()
    job = decide(config, slide)
    if not isinstance(job, ExtractJob):
        return job
    encoder, watch = kept_encoder(config), Stopwatch(keep_spans=config.profile)
    stream = Stream(config, encoder, job.tile_px, watch)
    (fate,) = (e for e in stream.take(Claims(config, [job])) if not isinstance(e, SlideStarted))
    if isinstance(fate, SlideDone):  # the network's time is the slide's own
        spans = (*fate.spans, *watch.spans)
        return replace(fate, phases={**fate.phases, **watch.seconds}, spans=spans)
    return fate


def _planned(job: ExtractJob) -> Planned:
    name, folder = job.slide.slide_id, job.slide.target.parent.name
    return Planned(row={"slide": name, "tiles": job.tiles, "features": folder})


def _task(config: ExtractConfig, slide: Candidate) -> SlideTask:
    return SlideTask(
        slide_id=slide.slide_id,
        lock=slide.lock_path(config.run),
        payload=(config, slide),
        limits=limits_of(config),
    )


def _timed(config: ExtractConfig, slides: deque[Candidate]) -> Iterator[Event]:
    """Encode all slides on this process's device, and say how fast that was."""
    first = yield from _until_work(config, slides)
    if first is None:
        return
    encoder = _encoder(config, config.device)
    watch, started, tiles = Stopwatch(keep_spans=config.profile), time.monotonic(), 0
    for event in Stream(config, encoder, first.tile_px, watch).encode(slides):
        tiles += event.counts["tiles encoded"] if isinstance(event, SlideDone) else 0
        yield event
    seconds = time.monotonic() - started
    yield Note(
        text=f"{tiles} tiles in {seconds:.1f} s ({tiles / max(seconds, 1e-9):.0f}/s) on "
        f"{encoder.device}, {encoder.precision}"
    )
    yield TimeSpent(phases=dict(watch.seconds), spans=tuple(watch.spans))


@dataclass(frozen=True)
class Stream:
    """Slides through one encoder: one stream of batches for all.

    Attributes:
        config: What is asked of all slides.
        encoder: Ready to encode.
        tile_px: Side of their tiles.
        watch: Told how long the network works, and waits.
    """

    config: ExtractConfig
    encoder: Encoder
    tile_px: int
    watch: Stopwatch

    def encode(self, slides: Iterable[Candidate]) -> Iterator[SlideStarted | SlideFate]:
        """Encode all slides on this process's device; those another process holds come last.

        Once the reader hangs, the rest is encoded in a worker, which can be ended: what hangs may
        hold what the next slide needs.
        """
        config, left = self.config, list(slides)
        while left:
            claims = Claims(config, left)
            try:
                yield from self.take(claims)
            except HangingError as error:
                yield fate_of(error.slide_id, error)
                claims.told.add(error.slide_id)
                tasks = [_task(config, each) for each in left if each.slide_id not in claims.told]
                elsewhere = config.model_copy(update={"workers": 1})
                for event in map_slides(extract_slide, tasks, elsewhere) if tasks else ():
                    assert isinstance(event, SlideStarted | SlideDone | SlideSkipped | SlideFailed)
                    yield event
                return
            if len(claims.busy) == len(left):
                time.sleep(POLL_SECONDS)
            left = claims.busy

    def take(self, claims: "Claims") -> Iterator[SlideStarted | SlideFate]:
        """Take the slides through the encoder, and tell each one's fate."""
        encoder, watch = self.encoder, self.watch
        steps = encode_slides(encoder, claims, self.tile_px, watch, claims.waited)
        with closing(claims), closing(steps):
            for step in steps:
                yield from claims.decided()
                if isinstance(step, Begun):
                    yield SlideStarted(slide_id=step.slide_id)
                else:
                    yield claims.finish(step, encoder, watch)
            yield from claims.decided()


class HangingError(SlideError):
    """The thread that reads a slide hangs."""

    def __init__(self, slide_id: str, reason: SlideError) -> None:
        super().__init__(str(reason))
        self.slide_id = slide_id


@dataclass(kw_only=True)
class InHand:
    """The slide that the reader has in hand, and why and when it was given up, if it was."""

    slide_id: str
    pulse: Pulse
    error: SlideError | None = None
    since: float = 0.0


@dataclass(kw_only=True)
class Claim:
    """A slide that is ours to encode until the lock is released."""

    job: ExtractJob
    source: SlideSource
    lock: FileLock | None
    started: float


class Claims:
    """The sources of slides, each claimed and opened when its turn to be read comes.

    That is in the reader's thread, while the encoder works on the slides before.

    Attributes:
        busy: Slides that another process is working on.
        told: Those whose fate was told.
    """

    def __init__(self, config: ExtractConfig, slides: Sequence[Candidate | ExtractJob]) -> None:
        """Of a job the caller holds the lock, and looks whether it gets on."""
        self._pulse = PULSE.get()
        self._hand: InHand | None = None
        self.told: set[str] = set()
        self.busy: list[Candidate] = []
        self._config = config
        self._slides = slides
        self._claims: dict[str, Claim] = {}
        self._decided: SimpleQueue[SlideSkipped | SlideFailed] = SimpleQueue()

    def __iter__(self) -> Iterator[SlideSource]:
        for each in self._slides:
            claim = self._own(each) if isinstance(each, ExtractJob) else self._claim(each)
            if claim is not None:
                self._claims[claim.job.slide.slide_id] = claim
                yield claim.source

    def decided(self) -> Iterator[SlideSkipped | SlideFailed]:
        """Yield the fates of slides that were not to be read after all."""
        while not self._decided.empty():
            fate = self._decided.get()
            self.told.add(fate.slide_id)
            yield fate

    def finish(self, step: Encoded, encoder: Encoder, watch: Stopwatch) -> SlideFate:
        """Write a slide that is through the stream, tell its fate and let go of it."""
        claim = self._claims.pop(step.slide_id)
        self.told.add(step.slide_id)
        try:
            if step.error is not None:
                raise step.error
            with watch.phase("write"):
                _write(self._config, claim, encoder, step)
            return _done(claim)
        except Exception as error:  # noqa: BLE001  it costs this slide, not the run
            return fate_of(step.slide_id, error)
        finally:
            _release(claim.lock)

    def waited(self, seconds: float) -> None:
        """Give the slide in hand up if it exceeds its limits, which its reader is told.

        Raises:
            HangingError: The reader was told, and does not end.
        """
        hand, limits = self._hand, limits_of(self._config)
        if hand is None or limits is None:
            return
        if hand.error is None:
            hand.error = exceeded(limits, min(seconds, hand.pulse.silent_s))
            if hand.error is not None:
                hand.since = time.monotonic()
                hand.pulse.give_up(hand.error)
        elif time.monotonic() - hand.since > GRACE_S:
            raise HangingError(hand.slide_id, hand.error)

    def close(self) -> None:
        """Let go of slides that are not through."""
        for claim in self._claims.values():
            _release(claim.lock)

    def _own(self, job: ExtractJob) -> Claim:
        if self._pulse is not None:
            PULSE.set(self._pulse)  # in the reader's thread, which makes the source
        return Claim(job=job, source=job.open(self._config), lock=None, started=time.monotonic())

    def _claim(self, slide: Candidate) -> Claim | None:
        """Claim a slide; None if it is another's, or nothing is to be done."""
        started, pulse = time.monotonic(), self._pulse or Pulse()
        PULSE.set(pulse)  # in the reader's thread, which makes the source
        pulse.beat()
        self._hand = InHand(slide_id=slide.slide_id, pulse=pulse)
        lock = _take_lock(slide, self._config)
        if lock is None:
            self.busy.append(slide)
            return None
        fate: SlideSkipped | SlideFailed
        try:
            job = decide(self._config, slide)
            if isinstance(job, ExtractJob):
                return Claim(job=job, source=job.open(self._config), lock=lock, started=started)
            fate = job
        except BaseException:
            _release(lock)
            raise
        _release(lock)
        self._decided.put(fate)
        return None


def _take_lock(slide: Candidate, config: ExtractConfig) -> FileLock | None:
    """Take the slide's lock; None if another process has it."""
    path = slide.lock_path(config.run)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)  # taken in the reader's thread, not let go there
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _release(lock: FileLock | None) -> None:
    if lock is not None:
        lock.release()


def _write(config: ExtractConfig, claim: Claim, encoder: Encoder, step: Encoded) -> None:
    job, source = claim.job, claim.source
    about = {
        "made_from": dict(job.made_from),
        "input_digest": job.made_from["input"],
        "encoder_provenance": encoder.provenance,
        "versions": provenance(PACKAGES),
    }
    slide = job.slide
    meta = describe_features(slide.slide_id, encoder.tag, source.attributes, about)
    write_features(slide.target, step.features, source.coords, meta, config.dtype)


def _done(claim: Claim) -> SlideDone:
    """Tell that a slide is done; what its source waited for is the network's time."""
    watch = claim.source.watch
    return SlideDone(
        slide_id=claim.job.slide.slide_id,
        counts={"tiles encoded": len(claim.source.coords)},
        seconds=time.monotonic() - claim.started,
        phases={name: spent for name, spent in watch.seconds.items() if name != WAIT},
        spans=tuple(watch.spans),
    )


@kept  # many slides are encoded with one model
def kept_encoder(config: ExtractConfig) -> Encoder:
    """Return the encoder, loaded once a process.

    Raises:
        EncoderError: It is unknown, or its weights cannot be had.
    """
    return _encoder(config, worker_device(config.device))


def _encoder(config: ExtractConfig, device: str) -> Encoder:
    return load_encoder(
        asked_of(config), device=device, precision=config.precision, batch_size=config.batch,
        kernels=config.kernels,
    )  # fmt: skip


def asked_of(config: ExtractConfig) -> Asked:
    """Return which encoder the settings ask for."""
    return Asked(name=config.encoder, weights=config.weights, pooling=config.pooling)


def worker_device(asked: str) -> str:
    """Return the device of this process: a worker has a GPU to itself, unless one is named.

    Raises:
        ConfigError: More workers than GPUs are on this machine.
    """
    if asked not in ("auto", "cuda"):
        return asked
    try:
        get_worker()
    except ValueError:  # not on a worker
        return asked
    return own_gpu() or asked
