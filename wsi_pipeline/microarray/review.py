"""What is known of a table of cores: from what it was made, how surely, and who looked.

Written beside the table as JSON. A table is used if its cores were placed surely, if a person has
accepted it, or if a person has corrected it: then it is no longer what was written. If the slide
or the core map has changed since, none of that counts any more.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from wsi_pipeline.atomic import remove, write_text
from wsi_pipeline.cohort import MappedCore
from wsi_pipeline.errors import CohortError, SlideError
from wsi_pipeline.microarray.place import Microarray
from wsi_pipeline.microarray.table import PlacedCore, table_text
from wsi_pipeline.slides import slide_digest

SUFFIX: Final = ".review.json"
INTERRUPTED: Final = "they are those of before, and whoever wrote others did not come to the end"


@dataclass(frozen=True, kw_only=True)
class Review:
    """The record beside a table of cores.

    Attributes:
        slide, map, table: Digests of what the table was made from, and of the table as written.
        doubts: Why it may be wrong, a sentence each; none: it is sure.
        orientation: How the array lies against its map, in words.
        evidence, margin: Log probability of the way the map was laid, and by how much the next
            best way is worse, in nats; None without a map or without another way.
        accepted: When a person said that it is right; None: nobody did.
        replaces: Digest of the table that stands in its place until it is there, if that is one in
            doubt.
    """

    slide: str
    map: str | None
    table: str = ""
    doubts: tuple[str, ...] = ()
    orientation: str = ""
    evidence: float | None = None
    margin: float | None = None
    accepted: str | None = None
    replaces: str | None = None

    @property
    def sure(self) -> bool:
        """Whether it may be used without a look."""
        return not self.doubts or self.accepted is not None


def review_of(
    slide: str | Path,
    mapped: Sequence[MappedCore] | None,
    doubts: Sequence[str],
    found: Microarray | None = None,
) -> Review:
    """What is to be known of a table that is about to be written."""
    joined = found.joined if found is not None else None
    orientation, margin = "", None
    if joined is not None:
        turned = f"turned by {joined.orientation.turn}°" if joined.orientation.turn else ""
        mirrored = "mirrored" if joined.orientation.mirrored else ""
        orientation = " and ".join(filter(None, (mirrored, turned))) or "as scanned"
        margin = joined.margin if joined.margin < float("inf") else None
    return Review(
        slide=slide_digest(slide),
        map=None if mapped is None else map_digest(mapped),
        doubts=tuple(doubts),
        orientation=orientation,
        evidence=None if joined is None else joined.evidence,
        margin=margin,
    )


def review_path(table: Path) -> Path:
    """Where the record of a table of cores is."""
    return table.with_name(table.stem + SUFFIX)


def write_reviewed(table: Path, cores: Iterable[PlacedCore], review: Review) -> None:
    """Write a table of cores and the record beside it.

    A table without its record counts as made by hand, and needs no look: so the record comes first.
    Whoever reads between the two has the table of before, which is as sure as it was.
    """
    text = table_text(cores)
    digest = _digest(text.encode())
    replaces = table_digest(table) if table.exists() and _is_in_doubt(table, review) else None
    review = replace(review, table=digest, replaces=None if replaces == digest else replaces)
    write_text(review_path(table), _record(review))
    write_text(table, text)


def put_back(table: Path, text: str, record: str | None) -> None:
    """Put a table and its record back as they were, in an order as :func:`write_reviewed` has.

    Raises:
        CohortError: The record is damaged.
    """
    path = review_path(table)
    if record is None:  # made by hand: it is known as changed until the record is gone
        write_text(table, text)
        remove(path)
        return
    if table.exists():
        write_text(path, _record(replace(_parsed(record, table), replaces=table_digest(table))))
    write_text(table, text)
    write_text(path, record)


def _is_in_doubt(table: Path, coming: Review) -> bool:
    """Whether a table may not be used, be it only with what the coming one is made from."""
    try:
        review = read_review(table)
    except CohortError:  # a damaged record says nothing for the table
        return True
    same = review is None or (review.slide, review.map) == (coming.slide, coming.map)
    return not same or bool(doubts_of(table, review))


def doubts_of(table: Path, review: Review | None) -> tuple[str, ...]:
    """Why a table may be wrong; nothing where it is sure, or a person has accepted or changed it.

    Args:
        table: It is there.
        review: Its record; None where there is none.
    """
    if review is None:
        return ()
    digest = table_digest(table)
    if digest == review.replaces:
        return (INTERRUPTED,)
    return review.doubts if not review.sure and digest == review.table else ()


def is_by_hand(table: Path, review: Review) -> bool:
    """Whether a table is no longer what was written."""
    return table_digest(table) not in (review.table, review.replaces)


def read_review(table: Path) -> Review | None:
    """Read the record; None for a table made by hand or by an earlier version.

    Raises:
        CohortError: It is damaged.
    """
    try:
        return _parsed(review_path(table).read_text("utf-8"), table)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(table, error) from None


def _parsed(record: str, table: Path) -> Review:
    try:
        values = json.loads(record)
        known = {field.name for field in fields(Review)}
        values = {name: value for name, value in values.items() if name in known}
        return Review(**{**values, "doubts": tuple(values.get("doubts", ()))})
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(table, error) from None


def _damaged(table: Path, error: Exception) -> CohortError:
    return CohortError(
        f"{review_path(table)}: damaged ({error}); remove it together with {table.name} and find "
        "the cores anew"
    )


def _record(review: Review) -> str:
    return json.dumps(asdict(review), indent=1) + "\n"


def now() -> str:
    """The time of an acceptance."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def map_digest(mapped: Sequence[MappedCore]) -> str:
    """Digest of what a core map says, whatever its layout and its order."""
    rows = sorted(
        (core.row, core.column, core.core_id, core.patient_id or "", core.label or "")
        for core in mapped
    )
    return _digest(json.dumps(rows).encode())


def table_digest(table: Path) -> str:
    """Digest of a table of cores as it is now."""
    return _digest(table.read_bytes())


def check_review(
    table: Path, slide: str | Path, mapped: Sequence[MappedCore] | None, advice: str
) -> Review | None:
    """Refuse a table of cores that nobody may rely on.

    Args:
        table: The table.
        slide: The slide that it is asked for.
        mapped: The core map that it is asked for; None does not ask.
        advice: What to do for it to be used.

    Returns:
        The record; None where there is none: the table was made by hand or long ago.

    Raises:
        SlideError: The slide or the map has changed, or the cores are unsure and nobody looked.
    """
    review = read_review(table)
    if review is None:
        return None
    if review.slide != slide_digest(slide):
        raise SlideError(f"{slide}: not the file that {table} was made from; {advice}")
    if mapped is not None and review.map not in (None, map_digest(mapped)):
        raise SlideError(
            f"{slide}: its core map has changed since {table} was made; move the table away, or "
            f"find the cores anew with --overwrite: {advice}"
        )
    if doubts := doubts_of(table, review):
        raise SlideError(f"{slide}: {unsure(doubts, by_map=review.map is not None)}; {advice}")
    if is_by_hand(table, review) and read_review(table) != review:  # both were just written anew
        return check_review(table, slide, mapped, advice)
    return review


def unsure(doubts: Sequence[str], *, by_map: bool = True) -> str:
    """The sentence that says what does not fit."""
    what = "its cores are not surely those of the map" if by_map else (
        "its rows and columns are in doubt"
    )  # fmt: skip
    return f"{what}: {'; '.join(doubts)}"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
