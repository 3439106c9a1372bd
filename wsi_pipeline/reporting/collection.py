"""From a run folder to report data: reads what is there, and leaves out what is not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import StoreError
from wsi_pipeline.journal import read_outcomes
from wsi_pipeline.learn import read_openings
from wsi_pipeline.reporting.bundles import BundleRead, flat_rows, read_bundles
from wsi_pipeline.reporting.cards import slide_cards
from wsi_pipeline.reporting.data import Costs, Facts, Failure, ReportData
from wsi_pipeline.reporting.examples import spread_slides, tile_pairs
from wsi_pipeline.reporting.funnel import all_failures, read_funnel
from wsi_pipeline.reporting.predicted import read_said
from wsi_pipeline.reporting.readers import add_readings, compare_all, machine_seconds
from wsi_pipeline.run_cohort import rows_of, unmatched
from wsi_pipeline.run_folder import RunFolder, stores_in
from wsi_pipeline.settings import load_toml
from wsi_pipeline.shard import shards_to_come
from wsi_pipeline.tiles import TileStore, open_tiles, stores_of

SYNTHETIC: Final = "synthetic"  # how the generated cohort names itself and its scanners
RANDOM: Final = ".random"  # in the tag of an encoder that was never trained


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a page shows: ``slides`` have pictures, None for all; the index has every one."""

    slides: int | None = None
    example_slides: int = 6
    tiles_per_slide: int = 2


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Readings of a table beside the cohort's, and what is stated: wages, prices, the promise."""

    table: Path | None = None
    costs: Costs = field(default_factory=Costs)


DEFAULT_READING: Final = Reading()


def collect(
    run: Path,
    *,
    title: str | None = None,
    slides: Path | None = None,
    created: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    reading: Reading = DEFAULT_READING,
) -> ReportData:
    """Read a run folder.

    Args:
        run: The run folder; any of its parts may be missing.
        title: Of the page; the cohorts' names, else the folder's name, where None.
        slides: Folder the cohort's paths start from, for tiles as scanned; None: the table's own.
        created: Date to print.
        limits: How many slides and tiles are shown.
        reading: What readers said beside the cohort table, and what is stated of their costs.

    Raises:
        CohortError: ``cohort.csv`` is unusable.
        LearnError: The ledger of external openings is, or a reader's word is no class.
    """
    cohort = rows_of(RunFolder(run))
    stores, damaged = _open_stores(RunFolder(run).tiles, cohort)
    outcomes = list(read_outcomes(RunFolder(run).journal).values())
    bundles, broken = read_bundles(run)
    said, unread = read_said(RunFolder(run), bundles)
    encoded = _encoded(RunFolder(run))
    failures = (*all_failures(cohort, stores, damaged, outcomes, encoded), *broken, *unread)
    read = cohort if reading.table is None else add_readings(cohort, reading.table)
    parts = compare_all(read, bundles, reading.costs.promised)
    alike = _alike(stores)
    examples = spread_slides(stores, cohort, limits.example_slides)
    return ReportData(
        title=title or _title(run, cohort),
        created=created,
        synthetic=any(_is_synthetic(slide) for slide in cohort),
        random_weights=any(RANDOM in path.name for path in RunFolder(run).features.glob("*")),
        notes=(
            *shards_to_come(RunFolder(run).journal),
            *_strangers(RunFolder(run), cohort),
            *_cut(len({*stores, *encoded}), limits.slides),
        ),
        funnel=read_funnel(cohort, stores, failures, encoded),
        slides=slide_cards(run, cohort, stores, said, encoded, limits.slides),
        tiles=tile_pairs(examples, cohort, slides, limits.tiles_per_slide),
        stain_method=_stain_method(stores.values()),
        models=tuple(bundle.report for bundle in bundles),
        openings=tuple(_openings(RunFolder(run))),
        readers=parts,
        costs=replace(reading.costs, machine_s=machine_seconds(RunFolder(run).journal)),
        failures=failures,
        provenance=tuple(_facts(run, stores, alike, bundles)),
        alike=alike,
    )


def _open_stores(
    folder: Path, cohort: Sequence[CohortSlide]
) -> tuple[dict[str, TileStore], list[Failure]]:
    """Open every store, in the cohort's order; those that do not open are failures."""
    paths = stores_of(folder)
    order = [slide.slide_id for slide in cohort if slide.slide_id in paths] or list(paths)
    stores, damaged = {}, []
    for slide_id in order:
        try:
            stores[slide_id] = open_tiles(paths[slide_id])
        except StoreError as error:
            damaged.append(Failure(slide_id=slide_id, stage="tile", reason=str(error)))
    return stores, damaged


def _encoded(run: RunFolder) -> frozenset[str]:
    """Slides that have features of any encoder."""
    return frozenset(name for folder in run.features.glob("[!.]*") for name in stores_in(folder))


def _title(run: Path, cohort: Sequence[CohortSlide]) -> str:
    names = list(dict.fromkeys(slide.cohort for slide in cohort if slide.cohort))
    return " and ".join(names) if names else run.resolve().name


def _openings(run: RunFolder) -> Iterator[tuple[str, ...]]:
    """Yield a row for each time that external slides were looked at, as the ledger has it."""
    for each in read_openings(run.openings):
        yield (
            each.when,
            each.cohort,
            str(each.slides),
            each.model,
            each.weights[:12],
            each.who,
            ", ".join(name.replace("_", " ") for name in each.metrics),
        )


def _is_synthetic(slide: CohortSlide) -> bool:
    return any((name or "").startswith(SYNTHETIC) for name in (slide.cohort, slide.scanner))


def _strangers(run: RunFolder, cohort: Sequence[CohortSlide]) -> Iterator[str]:
    """Say which tile stores have no row; slides without a store are among the lost ones."""
    rows = [row.slide_id for row in cohort]
    for told in unmatched(run, rows, stores_of(run.tiles), "tile store"):
        yield from [replace(told, without_store=()).line()] if told.without_row else []


def _cut(found: int, shown: int | None) -> tuple[str, ...]:
    if shown is None or found <= shown:
        return ()
    return (f"Pictures are shown of the first {shown} of {found} slides; the index has all.",)


def _stain_method(stores: Any) -> str | None:
    methods = {store.attributes.get("stain", {}).get("method") for store in stores} - {None}
    return " and ".join(sorted(methods)) or None


def _alike(stores: Mapping[str, TileStore]) -> dict[str, str]:
    """Return what all tile stores say alike."""
    records = [dict(flat_rows(store.attributes)) for store in stores.values()]
    return {
        name: value
        for name, value in (records[0] if records else {}).items()
        if all(record.get(name) == value for record in records) and not _is_own(name)
    }


def _facts(
    run: Path,
    stores: Mapping[str, TileStore],
    alike: Mapping[str, str],
    bundles: Sequence[BundleRead],
) -> Iterator[Facts]:
    """Settings as given, what all tile stores agree on, each model's own record, digests."""
    for path in sorted(RunFolder(run).settings.glob("*.toml")):
        yield Facts(title=f"{path.stem} settings", rows=flat_rows(load_toml(path)))
    if stores:
        title = f"Tile stores, alike in all {len(stores)}"
        yield Facts(title=title, rows=tuple(alike.items()))
    yield from (bundle.facts for bundle in bundles)
    digests = tuple(
        (slide_id, str(store.attributes["slide_digest"]))
        for slide_id, store in stores.items()
        if "slide_digest" in store.attributes
    )
    if digests:
        yield Facts(title="Digests of the slides", rows=digests)


def _is_own(name: str) -> bool:
    """Whether an attribute belongs to one slide even if it happens to agree in all."""
    own = ("counts", "flags", "slide", "slide_digest", "complete", "schema")
    return name in own or name.startswith(("counts.", "stain.diagnostics"))
