"""Which slides there are to encode, and what decides each one's features."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from wsi_pipeline.atomic import remove
from wsi_pipeline.engine import NO_TISSUE, fate_of, is_done
from wsi_pipeline.errors import (
    ConfigError,
    StoreCorruptError,
    StoreError,
    StoreMismatchError,
    named,
)
from wsi_pipeline.events import Event, Note, SlideFailed, SlideSkipped
from wsi_pipeline.features import (
    Identity,
    SlideSource,
    SlideTiles,
    StoreTiles,
    read_attributes,
    recipe_of,
    stored_weights,
)
from wsi_pipeline.journal import read_outcomes
from wsi_pipeline.pipeline.resolve_cohort import resolve_cohort
from wsi_pipeline.pipeline.tile_task import CutTask, cut_task
from wsi_pipeline.run_cohort import merge_rows, rows_of, unmatched
from wsi_pipeline.run_folder import RunFolder, stores_in
from wsi_pipeline.settings import digest, load_toml
from wsi_pipeline.slides import SlideState, slide_digest
from wsi_pipeline.tiles import (
    Decisions,
    TileStore,
    check_places,
    dropped_digest,
    find_store,
    open_tiles,
    read_decisions,
    store_digest,
    stores_of,
)
from wsi_pipeline.timing import Stopwatch
from wsi_pipeline.verbs.tiles import ExtractConfig, TileConfig

DONE: Final = "extracted earlier"
DROPPED: Final = "dropped by decision"
NO_TILES: Final = "no tiles"
TILING: Final = "tile"  # the stage that makes tiles


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A slide that may have to be encoded; nothing of it has been opened yet.

    Attributes:
        slide_id: The slide.
        origin: Its tile store, or how to cut it.
        target: Its feature store.
        asked: What decides the features beside the tiles; stored with them.
        weights: What tells the encoder's weights from others; empty where that is not known.
        dropped: Level-0 (x, y) of tiles that a person decided to leave out.
        is_dropped: Whether that person left out the slide as a whole.
    """

    slide_id: str
    origin: Path | CutTask
    target: Path
    asked: Mapping[str, Any]
    weights: str = ""
    dropped: frozenset[tuple[int, int]] = frozenset()
    is_dropped: bool = False

    def lock_path(self, run: Path) -> Path:
        """Return the slide's lock file for this encoder."""
        return RunFolder(run).lock(f"extract-{self.target.parent.name}", self.slide_id)


@dataclass(frozen=True, kw_only=True)
class ExtractJob:
    """One slide's work order, its tiles at hand.

    Attributes:
        slide: The slide.
        held: Its tile store, open; or what its file is that has to be cut.
        tile_px: Side of its tiles.
        tiles: How many there are; None before the slide is cut.
        made_from: What decides the features; stored with them.
    """

    slide: Candidate
    held: TileStore | SlideState
    tile_px: int
    tiles: int | None
    made_from: Mapping[str, Any]

    def open(self, config: ExtractConfig) -> SlideSource:
        """Return the source of the slide's tiles, which is not read yet."""
        slide, cut, held = self.slide, self.slide.origin, self.held
        source: SlideSource
        if isinstance(cut, Path):
            assert isinstance(held, TileStore)
            source = StoreTiles(slide.slide_id, held, slide.dropped)
        else:
            assert isinstance(held, SlideState)
            source = SlideTiles(
                slide.slide_id, cut.path, cut.settings, replace(cut.request, source=held),
                slide.dropped, threads=config.threads_each,
            )  # fmt: skip
        source.watch = Stopwatch(keep_spans=config.profile)
        return source

    def is_done(self, *, overwrite: bool) -> bool:
        """Say whether the feature store is there and made from the same.

        Raises:
            StoreMismatchError: It was made from something else and is not to be overwritten.
            StoreCorruptError: It cannot be read.
        """
        target = self.slide.target
        if not target.exists():
            return False
        try:
            attributes = read_attributes(target)
        except StoreCorruptError:
            if overwrite:
                return False
            raise
        stored = dict(attributes.get("made_from", {}))
        if stored and (recipe := recipe_of(attributes)):  # older stores do not tell theirs
            stored.setdefault("recipe", recipe)
        asked = dict(self.made_from)
        if (held := stored_weights(attributes)) and self.slide.weights:
            stored["weights"], asked["weights"] = held, self.slide.weights
        return is_done(target, stored, asked, overwrite=overwrite)


def require_same_weights(config: ExtractConfig, encoder: Identity) -> None:
    """Refuse to add to features that the same encoder made with other weights.

    Raises:
        StoreMismatchError: The hub has another commit now, and nothing is to be overwritten.
    """
    stores = stores_in(RunFolder(config.run).features_of(encoder.tag))
    for store in [] if config.overwrite or not encoder.weights else stores.values():
        try:
            held = stored_weights(read_attributes(store))
        except StoreError:
            continue  # its slide says what is wrong with it
        if held and held != encoder.weights:
            raise StoreMismatchError(
                f"{store}: was made with weights {held[:12]} of {encoder.tag}, these are "
                f"{encoder.weights[:12]}: features of both do not go together. Bring the former, "
                "pass --overwrite to extract all anew, or extract into another run folder"
            )
        return


def find_origins(config: ExtractConfig) -> Iterator[tuple[str, Path | CutTask | Event | None]]:
    """Yield every slide of the shard with its tile store, None without one, or how to cut it.

    Raises:
        ConfigError: The run folder holds no tiles, or no slides are named.
        CohortError: The cohort table is unusable.
    """
    yield from _from_slides(config) if config.source == "slide" else _from_tiles(config)


def candidate(
    config: ExtractConfig,
    encoder: Identity,
    slide_id: str,
    origin: Path | CutTask,
    decisions: Decisions,
) -> Candidate:
    """Return a slide with all that is known of it without a look at its tiles."""
    dropped = decisions.dropped_tiles(slide_id)
    return Candidate(
        slide_id=slide_id,
        origin=origin,
        target=RunFolder(config.run).feature_store(encoder.tag, slide_id),
        asked={
            "encoder": encoder.tag,
            "recipe": encoder.recipe,
            "precision": config.precision,
            "dtype": config.dtype,
            "source": config.source,
            "dropped_tiles": dropped_digest(dropped),
        },
        weights=encoder.weights,
        dropped=dropped,
        is_dropped=decisions.drops_slide(slide_id),
    )


def decide(config: ExtractConfig, slide: Candidate) -> ExtractJob | SlideSkipped | SlideFailed:
    """Look at a slide's tiles, and decide whether they have to be encoded; what fails is its own.

    Raises:
        UsageError: The request is wrong.
    """
    try:
        if slide.is_dropped:
            return _leave_out(config, slide)
        job = _inspect(slide)
        if job.tiles == 0:
            return _leave_out(config, slide)
        done = job.is_done(overwrite=config.overwrite)
    except Exception as error:  # noqa: BLE001  it costs this slide, not the run
        return fate_of(slide.slide_id, error)
    return SlideSkipped(slide_id=slide.slide_id, reason=DONE) if done else job


def without_tiles(
    config: ExtractConfig, slide_ids: Collection[str], decisions: Decisions
) -> Iterator[SlideSkipped | SlideFailed]:
    """Tell the fate of slides that have no tiles: lost, unless there is a good reason.

    Of a run that was cut before there was a journal nothing is known; there they are passed over.
    """
    run = RunFolder(config.run)
    outcomes = read_outcomes(run.journal) if slide_ids else {}
    known = {slide_id: told for (slide_id, stage), told in outcomes.items() if stage == TILING}
    for slide_id in slide_ids:
        told = known.get(slide_id)
        if decisions.drops_slide(slide_id):
            yield SlideSkipped(slide_id=slide_id, reason=DROPPED)
        elif not known:
            yield SlideSkipped(slide_id=slide_id, reason=NO_TILES)
        elif told is not None and told.fate == "skipped" and told.words.startswith(NO_TISSUE):
            yield SlideSkipped(slide_id=slide_id, reason=NO_TISSUE)
        else:
            why = "never cut" if told is None else f"cut last: {told.fate}, {told.words}"
            yield SlideFailed(
                slide_id=slide_id,
                error=f"has no tiles ({why}); cut it, or drop it in {run.decisions}",
            )


def find_decisions(config: ExtractConfig) -> Decisions:
    """Return what a person decided in the run folder; nothing where there is no table.

    Raises:
        CohortError: The table is wrong.
    """
    return read_decisions(RunFolder(config.run).decisions)


def strangers(config: ExtractConfig) -> Iterator[Event]:
    """Name the rows that have no tiles, and the tiles that have no row."""
    if config.source == "tiles":
        run = RunFolder(config.run)
        mine = config.shard.holds
        rows = [row.slide_id for row in rows_of(run)]
        yield from unmatched(
            run, filter(mine, rows), filter(mine, stores_of(run.tiles)), "tile store"
        )


def unknown_decisions(
    config: ExtractConfig, decisions: Decisions, slide_ids: Collection[str]
) -> Iterator[Note]:
    """Tell of slides in the table of decisions that are not among those at hand."""
    decided = {row.slide_id for row in decisions.rows if config.shard.holds(row.slide_id)}
    strangers = sorted(decided - set(slide_ids))
    if strangers:
        yield Note(
            text=f"{decisions.path} decides about slides that are not here: {named(strangers)}"
        )


def _leave_out(config: ExtractConfig, slide: Candidate) -> SlideSkipped:
    """Skip a dropped slide; no feature store of it may be left for the next stage to find.

    Raises:
        StoreMismatchError: There is one, and it is not to be overwritten.
    """
    if slide.target.exists():
        if not config.overwrite:
            raise StoreMismatchError(
                f"{slide.target}: was made before the slide was dropped in "
                f"{RunFolder(config.run).decisions}; pass --overwrite to remove it"
            )
        if not config.dry_run:
            remove(slide.target)
    return SlideSkipped(slide_id=slide.slide_id, reason=DROPPED)


def _inspect(slide: Candidate) -> ExtractJob:
    """Open a slide's tile store, or look at the file that has to be cut."""
    origin = slide.origin
    if isinstance(origin, Path):
        store = open_tiles(origin)
        check_places(slide.slide_id, store.coords, slide.dropped)
        return ExtractJob(
            slide=slide, held=store, tile_px=store.tiles.shape[1],
            tiles=len(store) - len(slide.dropped),
            made_from={**slide.asked, "input": store_digest(store)},
        )  # fmt: skip
    state = SlideState(origin.path, slide_digest(origin.path))
    made = digest({**origin.asked, "slide_digest": state.digest})
    return ExtractJob(
        slide=slide, held=state, tile_px=origin.settings.tile_px, tiles=None,
        made_from={**slide.asked, "input": made},
    )  # fmt: skip


def _from_tiles(config: ExtractConfig) -> Iterator[tuple[str, Path | None]]:
    run, folder = RunFolder(config.run), RunFolder(config.run).tiles
    present = list(stores_of(folder))
    ids = _known(run, present)
    mine = list(filter(config.shard.holds, ids))
    if not present and (mine or not ids):
        raise ConfigError(
            f"{folder}: no tile stores there; run `python -m wsi_pipeline.tile` first, or take "
            "the tiles from the slides with --source slide"
        )
    for slide_id in mine:
        yield slide_id, find_store(folder, slide_id)


def part_of(config: ExtractConfig) -> str:
    """Say which part of the run's slides the shard is; empty where it is all."""
    run = RunFolder(config.run)
    return config.shard.of(_known(run, stores_of(run.tiles)) if config.shard.is_part else ())


def _known(run: RunFolder, present: Iterable[str]) -> list[str]:
    return [row.slide_id for row in rows_of(run)] or list(present)


def _from_slides(config: ExtractConfig) -> Iterator[tuple[str, CutTask | Event]]:
    if config.cohort is None:
        raise ConfigError("--source slide: name the slides with --cohort, a table or a folder")
    values = load_toml(config.tile_settings) if config.tile_settings else {}
    given = {
        "cohort": config.cohort,
        "run": config.run,
        "slides": config.slides or values.get("slides"),
        "dry_run": config.dry_run,
        "shard": config.shard,
    }
    source = str(config.tile_settings or "tile settings")
    tile_config = TileConfig.from_mapping({**values, **given}, source)
    resolved = resolve_cohort(tile_config)
    merged = merge_rows(
        RunFolder(config.run), resolved.rows, config.cohort,
        overwrite=config.overwrite, write=not config.dry_run,
    )  # fmt: skip
    for event in resolved.events if config.dry_run else (merged, *resolved.events):
        yield getattr(event, "slide_id", ""), event
    for slide in resolved.slides:
        yield slide.slide_id, cut_task(tile_config, slide)
