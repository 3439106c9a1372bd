"""One of several equal parts of a cohort: ``3/40`` is the third of forty jobs.

A slide's part follows from its id alone, so slides that are added move none. Parts are as even as
chance makes them: of n slides in k parts each holds n/k, give or take the square root of that.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field

from wsi_pipeline.errors import named
from wsi_pipeline.events import StageStarted
from wsi_pipeline.journal import read_journal
from wsi_pipeline.settings import HOW, Metavar, Settings

FORM: Final = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Shard:
    """Part ``number``, counted from 1, of ``count``; 1 of 1 is all."""

    number: int = 1
    count: int = 1

    @classmethod
    def read(cls, text: str) -> Self:
        """Read ``3/40``.

        Raises:
            ValueError: It is no part.
        """
        found = FORM.fullmatch(text)
        if found is None:
            raise ValueError(f"a shard is one of several, such as 3/40 (found {text!r})")
        number, count = map(int, found.groups())
        if not 1 <= number <= count:
            raise ValueError(
                f"shards of {count} are counted from 1 to {count} (found {text!r}); a SLURM array "
                f"is --array=1-{count}"
            )
        return cls(number, count)

    @property
    def is_part(self) -> bool:
        return self.count > 1

    def holds(self, slide_id: str) -> bool:
        """Whether a slide is in this part."""
        digest = blake2b(slide_id.encode(errors="surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.number - 1

    def of(self, slide_ids: Collection[str]) -> str:
        """Say how many slides this is of all; empty where it is all of them."""
        if not self.is_part:
            return ""
        mine = sum(map(self.holds, slide_ids))
        return f"shard {self}: {mine:,} of {len(slide_ids):,} slides"

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def shards_to_come(journal: Path) -> Iterator[str]:
    """Say which stages of a run were worked on in shards of which some have never been begun."""
    begun: dict[str, set[Shard]] = {}
    for entry in read_journal(journal):
        if isinstance(entry.event, StageStarted):
            found = re.match(r"shard (\S+):", entry.event.part)
            shard = Shard() if found is None else Shard.read(found[1])
            of_stage = begun.setdefault(entry.event.stage, set())
            of_stage -= {other for other in of_stage if other.count != shard.count}
            of_stage.add(shard)
    for stage, shards in begun.items():
        count = next(iter(shards)).count
        left = sorted(set(range(1, count + 1)) - {shard.number for shard in shards})
        if left:
            yield (
                f"{stage}: {len(left)} of {count} shards have not been begun "
                f"({named(list(map(str, left)))}), so this is a part of the cohort"
            )


def _as_shard(value: Any) -> Any:
    return Shard.read(value) if isinstance(value, str) else value


class ShardSettings(Settings):
    """Which part of the cohort this call works on."""

    topic = "more machines than one"

    shard: Annotated[Shard, BeforeValidator(_as_shard), HOW, Metavar("K/N")] = Field(
        default=Shard(),
        description="Work on one of N parts of the slides, as a job of an array does, such as "
        "3/40; a slide's part follows from its id alone.",
    )
