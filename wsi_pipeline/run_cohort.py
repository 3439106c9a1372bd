"""The slides of a run: one table, to which every call that brings slides adds its rows.

Two jobs with half of a cohort each give the whole of it, whichever comes first. A row that is there
already is one; a row that says something else of a slide is refused, unless it shall hold from now
on. What the stores hold is compared with the table, so that no slide is left out unsaid.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from wsi_pipeline.atomic import try_lock
from wsi_pipeline.cohort import CohortSlide, contradictions, read_cohort, write_cohort
from wsi_pipeline.errors import CohortError
from wsi_pipeline.events import RowsMerged, Unmatched
from wsi_pipeline.inventory import begin, difference, inventory_of
from wsi_pipeline.run_folder import RunFolder, stores_in

PATIENCE_S: Final = 60.0  # another process has the table for milliseconds
WHERE: Final = ("path", "root")  # compared as one: which file it is
OF_CORES: Final = ("region", "tilt_deg", "patient_id", "label", "sample_type")


def rows_of(run: RunFolder) -> list[CohortSlide]:
    """Return the run's slides; none where it has no table.

    Raises:
        CohortError: The table is unusable.
    """
    return read_cohort(run.cohort) if run.cohort.exists() else []


def hand_edits(run: RunFolder) -> tuple[str, ...]:
    """Say that the run's table was edited since it was written here, if it was.

    A person may correct it; then nobody but they can tell a correction from damage.
    """
    root = run.root.absolute()
    entry = inventory_of(root).entries.get(run.cohort.name)
    if entry is None or not entry.prints or not run.cohort.exists():
        return ()
    if not difference(entry, run.cohort):
        return ()
    text = (
        f"{run.cohort} was edited after it was written here: patients, labels and splits are taken "
        f"as they stand in it now; if that is meant, say so with `repair {run.root} --accept "
        f"{run.cohort.name}`"
    )
    return (text,)


@dataclass(frozen=True)
class _Merged:
    rows: list[CohortSlide]
    event: RowsMerged


def merge_rows(
    run: RunFolder,
    slides: Sequence[CohortSlide],
    source: Path | str,
    *,
    overwrite: bool = False,
    write: bool = True,
) -> RowsMerged:
    """Add rows to the run's table, under its lock.

    Args:
        run: The run folder.
        slides: Rows of this call.
        source: Where they are from, for messages.
        overwrite: Whether a row that says something else replaces the one that is there.
        write: False says what would come of it, and changes nothing.

    Returns:
        How many rows came, and how many were there.

    Raises:
        CohortError: A row says something else of a slide than the one that is there, or the two
            tables contradict each other; by line.
    """
    if not write:
        return _merge(run, slides, source, overwrite=overwrite).event
    begin(run.root)
    with try_lock(run.lock("cohort", run.cohort.name), wait_s=PATIENCE_S) as mine:
        if not mine:
            raise CohortError(
                f"{run.cohort}: another process has been writing it for {PATIENCE_S:.0f} s; "
                "end that process, or try again"
            )
        merged = _merge(run, slides, source, overwrite=overwrite)
        if merged.rows != rows_of(run):
            write_cohort(run.cohort, merged.rows)
    return merged.event


def check_merges(
    run: RunFolder, tables: Mapping[Path, Sequence[CohortSlide]], *, overwrite: bool = False
) -> None:
    """Look whether all of these tables can be added to the run's, one after the other.

    Raises:
        CohortError: One says something else of a slide than another or the run's own, or they
            contradict each other; by line.
    """
    rows = rows_of(run)
    homes: dict[str, Path | str] = {row.slide_id: run.cohort for row in rows}
    for source, slides in tables.items():
        rows = _joined(run, rows, slides, source, homes=homes, overwrite=overwrite).rows
        homes |= {slide.slide_id: source for slide in slides}


def _merge(
    run: RunFolder, slides: Sequence[CohortSlide], source: Path | str, *, overwrite: bool
) -> _Merged:
    rows = rows_of(run)
    homes: dict[str, Path | str] = {row.slide_id: run.cohort for row in rows}
    return _joined(run, rows, slides, source, homes=homes, overwrite=overwrite)


def _joined(
    run: RunFolder,
    rows: Sequence[CohortSlide],
    slides: Sequence[CohortSlide],
    source: Path | str,
    *,
    homes: Mapping[str, Path | str],
    overwrite: bool,
) -> _Merged:
    """Add ``slides`` of ``source`` to ``rows``, each of which stands in its table in ``homes``."""
    there = {row.slide_id: row for row in rows}
    pairs = [(there[slide.slide_id], slide) for slide in slides if slide.slide_id in there]
    told = [
        f"{_place(source, new)}: slide {new.slide_id!r} differs from "
        f"{_place(homes[old.slide_id], old)}: {'; '.join(found)}"
        for old, new in pairs
        if (found := _differences(old, new))
    ]
    if told and not overwrite:
        raise CohortError(
            "\n".join(told) + "\nput the table right, or pass --overwrite to let the new rows hold"
        )
    changed = sum(old != replace(new, path=old.path, root=old.root) for old, new in pairs)
    joined = there | {slide.slide_id: slide for slide in slides}
    new = [slide for slide in slides if slide.slide_id not in there]
    if there and new:  # of several tables: whoever came first, they stand alike
        joined = dict(sorted(joined.items()))
    asked = {slide.slide_id for slide in slides}
    problems = contradictions(
        [
            (_place(source if name in asked else homes[name], row), row)
            for name, row in (there | joined).items()
        ]
    )
    if problems:
        raise CohortError("\n".join(problems))
    event = RowsMerged(
        table=str(run.cohort),
        new=len(new),
        same=len(pairs) - changed,
        changed=changed,
        others=len(there.keys() - asked),
    )
    return _Merged(list(joined.values()), event)


def _place(table: Path | str, row: CohortSlide) -> str:
    return f"{table}" if row.line is None else f"{table}: line {row.line}"


def _differences(old: CohortSlide, new: CohortSlide) -> list[str]:
    """Say what a row tells otherwise than the one that is there.

    Where a core lies and what it is stands in the run's own table of cores, which people correct.
    """
    left = (*WHERE, "line", *(OF_CORES if new.region is not None else ()))
    names = [item.name for item in fields(CohortSlide) if item.name not in left]
    pairs = {name: (getattr(old, name), getattr(new, name)) for name in names}
    if not _same_file(old, new):
        pairs["file"] = (str(old.locate()), str(new.locate()))
    return [
        f"{name} {_said(there)} there, {_said(here)} here"
        for name, (there, here) in pairs.items()
        if there != here
    ]


def _same_file(old: CohortSlide, new: CohortSlide) -> bool:
    """Whether two rows name one file; a file that is gone from its old place has been moved."""
    before, now = old.locate(), new.locate()
    if old.path == new.path and (old.root is None or new.root is None):
        return True  # of a table from before rows knew their folder
    if before is None or now is None or isinstance(before, str) or isinstance(now, str):
        return before == now
    if before.absolute() == now.absolute():
        return True
    if old.path == new.path and not before.exists():
        return True
    return before.exists() and now.exists() and before.samefile(now)


def _said(value: object) -> str:
    return "nothing" if value is None else repr(value)


def unmatched_features(run: RunFolder, folder: Path) -> Iterator[Unmatched]:
    """Name the rows without features of an encoder, and the features without a row."""
    rows = [row.slide_id for row in rows_of(run)]
    yield from unmatched(run, rows, stores_in(folder), "feature store")


def unmatched(
    run: RunFolder, rows: Iterable[str], stores: Iterable[str], what: str
) -> Iterator[Unmatched]:
    """Name rows without a store and stores without a row; silent where there is no table.

    Args:
        run: The run folder.
        rows: Ids of the slides in its table.
        stores: Ids of those that have a store.
        what: The stores' kind, such as ``tile store``.
    """
    asked, found = list(dict.fromkeys(rows)), list(dict.fromkeys(stores))
    if not asked:
        return
    without_store = tuple(name for name in asked if name not in set(found))
    without_row = tuple(name for name in found if name not in set(asked))
    if without_store or without_row:
        yield Unmatched(
            table=str(run.cohort), what=what, without_store=without_store, without_row=without_row
        )
