"""The cohort as it is cut: table, folder or slide; files checked, TMA slides become their cores."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from types import MappingProxyType

from wsi_pipeline import microarray  # imported when an array comes
from wsi_pipeline.cohort import (
    CohortSlide,
    cohort_of,
    in_folder,
    is_remote,
    read_cohort,
    safe_id,
)
from wsi_pipeline.errors import CohortError, ConfigError, SlideError, WsiError, named
from wsi_pipeline.events import Event, Note, SlideFailed
from wsi_pipeline.pipeline.bucket_slides import absent_from_bucket, slides_in_bucket
from wsi_pipeline.pipeline.deleted import DeletedSlide, read_deleted
from wsi_pipeline.run_cohort import rows_of
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.slides import NOT_A_FILE, find_slides, is_slide_file, printable
from wsi_pipeline.verbs.tiles import TileConfig


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Slides below a folder, here or in a bucket.

    Attributes:
        root: The folder, as rows tell it.
        folder: What the paths begin with; nothing of a bucket's.
        paths: The slides.
        problems: Why what else is there is none.
        names: Ids of others than their stems, by path below the folder.
    """

    root: str
    folder: Path
    paths: Sequence[Path]
    problems: Mapping[Path, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def shown(self, path: Path) -> str:
        return printable(in_folder(self.root, str(path)) if is_remote(self.root) else path)


@dataclass(frozen=True, kw_only=True)
class ResolvedCohort:
    """What there is to cut.

    Attributes:
        slides: Slides, and cores in the place of TMA slides; each knows its ``root``.
        rows: What the run's table is to hold: these, then rows whose files are gone or unusable.
            Where one shard is worked on, the others' slides too, but for the cores of their arrays.
        events: What is wrong with slides and folders, and what happened to TMA slides.
        wrong: By slide, why its files are unusable.
        deleted: Slides whose files are gone because they were cut, by id.
        part: Which part of the cohort the slides are; empty where it is all.
    """

    slides: list[CohortSlide]
    rows: list[CohortSlide]
    events: list[Event]
    wrong: Mapping[str, str] = field(default_factory=dict)
    deleted: Mapping[str, DeletedSlide] = field(default_factory=dict)
    part: str = ""

    @property
    def failed(self) -> int:
        """How many slides are lost already."""
        return sum(isinstance(event, SlideFailed) for event in self.events)


def resolve_cohort(config: TileConfig) -> ResolvedCohort:
    """Read the cohort and find the cores of its TMA slides.

    A slide that cannot be used costs itself: its file is gone, its name or its folder unusable, its
    core map or its table of cores cannot be read.

    Raises:
        CohortError: The table is wrong, no file that it names is there, none of the core maps that
            are all it names can be read, or a core's id is taken.
        ConfigError: The folder of masks is missing, or a bucket cannot be listed.
    """
    if config.masks is not None and not config.masks.is_dir():
        raise ConfigError(f"--masks {config.masks}: there is no such folder")
    events: list[Event] = []
    absent: Mapping[str, str] = {}
    if isinstance(config.cohort, str):
        listed = slides_in_bucket(config, config.cohort)
        rows, events = _of_files(config, _Found(
            root=listed.root, folder=Path(), paths=listed.paths, problems=listed.problems
        ))  # fmt: skip
    elif config.cohort.is_dir():
        rows, events = _of_folder(config, config.cohort)
    elif is_slide_file(config.cohort):
        rows, events = _of_files(config, _of_one(config.cohort))
    else:
        rows = rows_of_table(config)
        if isinstance(config.slides, str):
            absent = absent_from_bucket(config, config.slides, rows)
    resolved = resolve_rows(config, rows, events, absent)
    if rows and len(resolved.wrong) == len(rows):
        raise CohortError(
            "\n".join(f"{config.cohort}: {name}: {said}" for name, said in resolved.wrong.items())
            + "\nnone of its slides can be used; give the right --slides folder"
        )
    return resolved


def resolve_rows(
    config: TileConfig,
    rows: Sequence[CohortSlide],
    events: Sequence[Event] = (),
    absent: Mapping[str, str] = MappingProxyType({}),
) -> ResolvedCohort:
    """Look for the rows' files and find the cores of TMA slides; ``events`` come first.

    ``absent`` says of rows, by id, why what they name in a bucket cannot be used.

    Raises:
        CohortError: A core map is wrong, or a core's id is taken.
    """
    deleted = read_deleted(RunFolder(config.run))
    wrong = {row.slide_id: said for row in rows if (said := unusable(config, row, deleted))}
    wrong = {**absent, **wrong}
    shard = config.shard
    failures = (SlideFailed(slide_id=name, error=said) for name, said in wrong.items())
    events = [
        event
        for event in (*events, *failures)
        if not isinstance(event, SlideFailed) or shard.holds(event.slide_id)
    ]
    slides: list[CohortSlide] = []
    table: list[CohortSlide] = []  # which is the same whichever shard comes first
    unread: list[CohortError] = []
    for row in rows:
        if row.slide_id in wrong:
            continue
        if row.tma_map is None:
            table.append(row)
            slides += [row] if shard.holds(row.slide_id) else []
            continue
        if not shard.holds(row.slide_id):
            continue
        try:
            cores = _cores(config, row)
        except WsiError as error:
            unread += [error] if isinstance(error, CohortError) else []
            events.append(SlideFailed(slide_id=row.slide_id, error=str(error)))
            continue
        events += _missing(row, cores)
        found = microarray.as_slides(row, cores)
        slides += found
        table += found
    if unread and len(unread) == len(rows):
        raise CohortError("\n".join(map(str, unread)))
    table += [row for row in rows if row.slide_id in wrong and row.tma_map is None]
    _check_ids(config.cohort, table)
    return ResolvedCohort(
        slides=slides, rows=table, events=events, wrong=wrong, deleted=deleted,
        part=shard.of([row.slide_id for row in rows]),
    )  # fmt: skip


def _of_folder(config: TileConfig, folder: Path) -> tuple[list[CohortSlide], list[Event]]:
    """Return the slides of a folder, and a failure for what lies there and cannot be used."""
    found = find_slides(folder, config.modality)
    if found.paths == [folder]:  # it is a slide itself, and has the name that it has beside others
        folder = folder.resolve() if folder.name == ".." else folder.absolute()
        return _of_files(config, replace(_of_one(folder), problems=found.problems))
    names = _numbered(found.paths, folder) if config.modality == "ct" else {}
    root = str(folder.absolute())
    return _of_files(config, _Found(
        root=root, folder=folder, paths=found.paths, problems=found.problems, names=names
    ))  # fmt: skip


def _of_one(slide: Path) -> _Found:
    return _Found(root=str(slide.parent.absolute()), folder=slide.parent, paths=[slide])


def _of_files(config: TileConfig, found: _Found) -> tuple[list[CohortSlide], list[Event]]:
    """Return slides under the ids that the run knows them by, and a failure for what is none.

    Raises:
        CohortError: There are none.
    """
    known = {
        row.path: row.slide_id
        for row in rows_of(RunFolder(config.run))
        if row.region is None and row.root in (None, found.root)
    }
    taken = set(known.values())
    known = {path: name for path, name in found.names.items() if name not in taken} | known
    slides, unnamed = cohort_of(found.paths, found.folder, known)
    problems = {**found.problems, **unnamed}
    if not slides:
        told = "".join(f"\n{found.shown(path)} {said}" for path, said in problems.items())
        where = found.root if is_remote(found.root) else found.folder
        raise CohortError(f"{where}: there is no slide in this folder{told}")
    events: list[Event] = [
        SlideFailed(
            slide_id=printable(path.relative_to(found.folder)),
            error=f"{found.shown(path)} {said}",
        )
        for path, said in problems.items()
    ]
    return [replace(slide, root=found.root) for slide in slides], events


def _numbered(paths: Sequence[Path], folder: Path) -> dict[str, str]:
    """Name CT slices by their folder and their place in it, so that names sort as slices lie."""
    counts: Counter[Path] = Counter()
    total = Counter(path.parent for path in paths)
    names = {}
    for path in paths:
        counts[path.parent] += 1
        inside = path.relative_to(folder).parent.parts or (folder.resolve().name,)
        digits = max(3, len(str(total[path.parent])))
        names[str(path.relative_to(folder))] = safe_id(
            f"{'-'.join(inside)}-{counts[path.parent]:0{digits}d}"
        )
    return names


def rows_of_table(config: TileConfig) -> list[CohortSlide]:
    """Return the rows of a table, each with the folder its path starts from."""
    table = Path(config.cohort)

    def root(row: CohortSlide) -> str:
        where = row.root if config.slides is None else config.slides
        if isinstance(where, str) and is_remote(where):
            return where
        if config.slides is None:
            return str((table.parent / (where or "")).absolute())
        return str(Path(config.slides).absolute())

    return [replace(row, root=root(row)) for row in read_cohort(table)]


def unusable(
    config: TileConfig, row: CohortSlide, deleted: Mapping[str, DeletedSlide] | None = None
) -> str | None:
    """Say why a row's files cannot be used; None where they can, or it was cut and then deleted."""
    path = row.locate(config.slides)
    if isinstance(path, Path):
        if not path.exists():
            if row.slide_id in (deleted or {}):
                return None
            return f"no file {path}; fetch it, or take the row out"
        if not (path.is_file() or path.is_dir()):
            return f"{path} {NOT_A_FILE}"
    drawn = beside(config, row, row.annotations) if row.annotations else None
    if drawn is not None and not drawn.is_file():
        return f"no file {drawn}; fetch the annotations, or empty their field"
    return None


def no_core_map(config: TileConfig, row: CohortSlide) -> str | None:
    """Say that a microarray's core map is not there; None where it is, or its cores are known."""
    mapped = beside(config, row, row.tma_map) if row.tma_map else None
    if (
        mapped is None
        or mapped.is_file()
        or RunFolder(config.run).cores_table(row.slide_id).exists()
    ):
        return None
    return f"no core map {mapped}; put it there"


def cores_in_doubt(config: TileConfig, row: CohortSlide) -> str | None:
    """Say why a microarray's cores cannot be used, as far as that is known before it is looked at.

    Its core map looks the same turned, and the table does not tell how the array lies; or its cores
    were found, and nobody has accepted them. None where neither is so.
    """
    if row.tma_map is None or row.tma_lies is not None:
        return None
    table = RunFolder(config.run).cores_table(row.slide_id)
    mapped = beside(config, row, row.tma_map)
    try:
        review = microarray.read_review(table) if table.exists() else None
        if review is not None and (doubts := microarray.doubts_of(table, review)):
            said = microarray.unsure(doubts, by_map=review.map is not None)
            return f"{said}; {_advice(config, row)}"
        ways = (
            microarray.untold(microarray.read_map(mapped))
            if mapped.is_file() and not table.exists()
            else ()
        )
    except CohortError as error:
        return str(error)
    if not ways:
        return None
    alike = named([way.words.removeprefix("as scanned and ") for way in ways])
    return (
        f"the core map {mapped} has all but the same pattern {alike}, so that the slide cannot "
        "tell for sure how the array lies on it; write as-scanned, 90, 180 or 270 "
        f"(degrees clockwise) in the column tma_lies of {config.cohort}, or find the cores, look "
        f"at the picture and accept them: {_command(config, row)} (then the same with --accept)"
    )


def _cores(config: TileConfig, row: CohortSlide) -> "list[microarray.PlacedCore]":
    """Read where the cores are, or find them and write it down.

    Raises:
        SlideError: It is in doubt which core is whose, and no person has accepted or corrected it.
    """
    table = RunFolder(config.run).cores_table(row.slide_id)
    preview = table.with_suffix(".jpg")
    map_path = beside(config, row, str(row.tma_map))
    slide = row.locate(config.slides) or row.path
    advice = _advice(config, row)
    # what is told since outweighs cores in doubt that no person has touched
    known = table.exists() and (
        row.tma_lies is None or not microarray.doubts_of(table, microarray.read_review(table))
    )
    mapped = None if known and not map_path.is_file() else microarray.read_map(map_path)
    if known:
        microarray.check_review(table, slide, mapped, advice)
        return microarray.read_cores(table)
    override = config.mpp_override if row.mpp is None else row.mpp
    search = microarray.CoreSearch(
        reader=config.reader,
        mpp_override=override,
        region=row.region,
        joining=microarray.Joining(
            turn=None if row.tma_lies is None else microarray.LIES[row.tma_lies]
        ),
    )
    found = microarray.place_cores(slide, mapped, search)
    if not config.dry_run:
        microarray.write_preview(preview, found.picture)
        microarray.write_reviewed(
            table, found.cores, microarray.review_of(slide, mapped, found.doubts, found)
        )
    if found.doubts:
        raise SlideError(f"{slide}: {microarray.unsure(found.doubts)}; {advice}")
    return found.cores


def _advice(config: TileConfig, row: CohortSlide) -> str:
    """Say what to do about cores in doubt."""
    table = RunFolder(config.run).cores_table(row.slide_id)
    return (
        f"look at {table.with_suffix('.jpg')}, correct {table.name} beside it if need be, then "
        f"say: {_command(config, row)} --accept"
    )


def _command(config: TileConfig, row: CohortSlide) -> str:
    """Return the command that finds a microarray's cores, and with ``--accept`` accepts them."""
    slide, map_path = row.locate(config.slides) or row.path, beside(config, row, str(row.tma_map))
    preview = RunFolder(config.run).cores_table(row.slide_id).with_suffix(".jpg")
    words = ["python -m wsi_pipeline.cores", quote(str(slide)), "--map", quote(str(map_path))]
    return " ".join([*words, "--preview", quote(str(preview))])


def beside(config: TileConfig, row: CohortSlide, name: str) -> Path:
    """Return where a file lies that a row names: beside its slides or beside the table."""
    beside_slides, beside_table = Path(row.root or "") / name, Path(config.cohort).parent / name
    if is_remote(row.root):
        return beside_table
    if not beside_slides.exists() and beside_table.exists():
        return beside_table
    return beside_slides


def _missing(row: CohortSlide, cores: "list[microarray.PlacedCore]") -> Iterator[Event]:
    """Say which cores of the map are not used, and which on the slide have no row in it."""
    said = {
        "are not on the slide": [c for c in cores if c.mapped.core_id and c.region is None],
        "have hardly any tissue": [c for c in cores if c.status == "lost"],
        "may belong in the place beside theirs and are left out": [
            c for c in cores if c.status == "doubtful"
        ],
    }
    known = sum(bool(core.mapped.core_id) for core in cores)
    for what, which in said.items():
        if which:
            yield Note(
                text=f"{row.slide_id}: {len(which)} of {known} cores {what}: "
                f"{', '.join(core.mapped.core_id for core in which)}; correct "
                f"cores/{row.slide_id}.csv if that is wrong"
            )
    strangers = sum(core.status == "unmapped" for core in cores)
    if strangers:
        yield Note(
            text=f"{row.slide_id}: {strangers} cores found have no row in the core map; they are "
            f"in cores/{row.slide_id}.csv as unmapped"
        )


def _check_ids(table: Path | str, slides: list[CohortSlide]) -> None:
    seen: set[str] = set()
    for slide in slides:
        folded = slide.slide_id.casefold()
        if folded in seen:
            raise CohortError(f"{table}: slide_id {slide.slide_id!r} is a core's and another's too")
        seen.add(folded)
