"""The cohort as it is cut: table or folder, files checked, TMA slides expanded into their cores."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.cohort import CohortSlide, cohort_of, read_cohort, read_core_map
from wsi_pipeline.errors import CohortError, ConfigError, WsiError
from wsi_pipeline.events import Event, Note, SlideFailed
from wsi_pipeline.run_folder import RunFolder

if TYPE_CHECKING:
    from wsi_pipeline.microarray import PlacedCore
    from wsi_pipeline.pipeline.tile_config import TileConfig


@dataclass(frozen=True, kw_only=True)
class ResolvedCohort:
    """What there is to cut.

    Attributes:
        root: Folder the slides' paths start from.
        slides: Slides, and cores in the place of TMA slides.
        events: What happened to TMA slides: failures, missing cores.
    """

    root: Path
    slides: list[CohortSlide]
    events: list[Event]


def resolve_cohort(config: "TileConfig") -> ResolvedCohort:
    """Read the cohort and find the cores of its TMA slides.

    Raises:
        CohortError: The table is wrong, files it names are missing, or a core's id is taken.
    """
    root, rows = read_rows(config)
    slides: list[CohortSlide] = []
    events: list[Event] = []
    for row in rows:
        if row.tma_map is None:
            slides.append(row)
            continue
        try:
            cores = _cores(config, root, row)
        except CohortError:
            raise
        except WsiError as error:
            events.append(SlideFailed(slide_id=row.slide_id, error=str(error)))
            continue
        events += _missing(row, cores)
        from wsi_pipeline.microarray import as_slides

        slides += as_slides(row, cores)
    _check_ids(config.cohort, slides)
    return ResolvedCohort(root=root, slides=slides, events=events)


def read_rows(config: "TileConfig") -> tuple[Path, list[CohortSlide]]:
    """Return the folder paths start from, and the rows of the table or the slides of the folder.

    Raises:
        CohortError: As for :func:`resolve_cohort`.
        ConfigError: The folder of masks is missing.
    """
    if config.masks is not None and not config.masks.is_dir():
        raise ConfigError(f"--masks {config.masks}: there is no such folder")
    from wsi_pipeline.slides.find import SUFFIXES, find_slides

    if config.cohort.is_dir():
        paths = find_slides(config.cohort)
        if not paths:
            raise CohortError(f"{config.cohort}: there is no slide in this folder")
        return config.cohort, cohort_of(paths, config.cohort)
    if config.cohort.suffix.lower() in SUFFIXES:
        raise CohortError(f"{config.cohort}: a slide, not a table; give the folder it lies in")
    rows = read_cohort(config.cohort)
    root = config.slides or config.cohort.parent
    lost = [row for row in rows if "://" not in row.path and not (root / row.path).exists()]
    if lost:
        raise CohortError(
            "\n".join(f"{config.cohort}: {row.slide_id}: no file {root / row.path}" for row in lost)
            + "\nfetch what is missing, take the rows out, or give the right --slides folder"
        )
    _check_drawn(config, root, rows)
    return root, rows


def _check_drawn(config: "TileConfig", root: Path, rows: list[CohortSlide]) -> None:
    drawn = [(row, beside(config, root, row.annotations)) for row in rows if row.annotations]
    lost = [f"{config.cohort}: {row.slide_id}: no file {path}" for row, path in drawn
            if not path.is_file()]  # fmt: skip
    if lost:
        raise CohortError("\n".join(lost) + "\nfetch the annotations, or empty their fields")


def _cores(config: "TileConfig", root: Path, row: CohortSlide) -> "list[PlacedCore]":
    """Read where the cores are, or find them and write it down."""
    from wsi_pipeline.microarray import (
        CoreSearch,
        place_cores,
        read_cores,
        write_cores,
        write_preview,
    )

    table = RunFolder(config.run).cores_table(row.slide_id)
    if table.exists():
        return read_cores(table)
    mapped = read_core_map(beside(config, root, str(row.tma_map)))
    override = config.mpp_override if row.mpp is None else row.mpp
    search = CoreSearch(reader=config.reader, mpp_override=override)
    path = row.path if "://" in row.path else root / row.path
    found = place_cores(path, mapped, search)
    if not config.dry_run:
        write_preview(table.with_suffix(".jpg"), found.picture)
        write_cores(table, found.cores)
    return found.cores


def beside(config: "TileConfig", root: Path, name: str) -> Path:
    """Return where a file lies that the table names: beside the slides or beside the table."""
    beside_slides, beside_table = root / name, config.cohort.parent / name
    if not beside_slides.exists() and beside_table.exists():
        return beside_table
    return beside_slides


def _missing(row: CohortSlide, cores: "list[PlacedCore]") -> Iterator[Event]:
    lost = [core.mapped.core_id for core in cores if core.region is None]
    if lost:
        yield Note(
            text=f"{row.slide_id}: {len(lost)} of {len(cores)} cores are not on the slide: "
            f"{', '.join(lost)}; correct cores/{row.slide_id}.csv if they are"
        )


def _check_ids(table: Path, slides: list[CohortSlide]) -> None:
    seen: set[str] = set()
    for slide in slides:
        folded = slide.slide_id.casefold()
        if folded in seen:
            raise CohortError(f"{table}: slide_id {slide.slide_id!r} is a core's and another's too")
        seen.add(folded)
