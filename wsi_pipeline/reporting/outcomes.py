"""What became of each slide, read back from a run folder's logs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Fate = Literal["done", "skipped", "failed"]

_DATED: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<line>.*)")
_STAGE: Final = re.compile(r"(?P<stage>[a-z]+): \d+ slides")
_FATE: Final = re.compile(r"(?P<slide>\S+): (?P<fate>done|skipped|failed)(?: in |, )(?P<words>.*)")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The last word of a stage on a slide."""

    slide_id: str
    stage: str
    fate: Fate
    words: str


def read_outcomes(logs: Path) -> list[Outcome]:
    """Return each slide's last outcome in each stage, in the order of the logs.

    A slide that failed and was done by a later run is done. An absent folder gives an empty list.
    """
    files = sorted(logs.glob("*.log"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    found: dict[tuple[str, str], Outcome] = {}
    for path in files:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for outcome in parse_log(lines, path.stem):
                found[outcome.slide_id, outcome.stage] = outcome
    return list(found.values())


def parse_log(lines: Iterable[str], stage: str) -> Iterable[Outcome]:
    """Yield the outcomes that a log's lines tell of.

    Args:
        lines: Of one log; those without a date, such as tracebacks, are passed over.
        stage: The stage until a line names another.
    """
    for text in lines:
        dated = _DATED.match(text.rstrip("\n"))
        if dated is None:
            continue
        line = dated["line"]
        if begun := _STAGE.fullmatch(line):
            stage = begun["stage"]
        elif said := _FATE.fullmatch(line):
            fate: Fate = "done" if said["fate"] == "done" else _lost(said["fate"])
            yield Outcome(slide_id=said["slide"], stage=stage, fate=fate, words=said["words"])


def _lost(word: str) -> Fate:
    return "failed" if word == "failed" else "skipped"
