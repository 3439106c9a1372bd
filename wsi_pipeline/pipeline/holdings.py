"""What a run folder holds, held against its inventory: what is lost, changed, or another's."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from wsi_pipeline.digests import read_seal
from wsi_pipeline.errors import WsiError
from wsi_pipeline.inventory import (
    LOCK,
    NAME,
    ZARR,
    Entry,
    Inventory,
    difference,
    listed_files,
    read_inventory,
)
from wsi_pipeline.reporting import PICTURES, picture_name
from wsi_pipeline.run_folder import STORE
from wsi_pipeline.tiles import open_tiles

STORES: Final = ("tiles", "features", "predictions")  # checked with their slide, when all is read
SHOWN: Final = re.compile(rf"{PICTURES}/[0-9a-f]{{24}}\.\w+")
BY_HAND: Final = ("qc", "cores", "config")  # folders whose files people write and correct


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: a file, by its path below the run folder, and a sentence."""

    name: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What was found.

    Attributes:
        findings: What is wrong.
        remarks: What a person should know, and may be right.
        unlisted: Files from before there was an inventory: nothing is known of their bytes.
        files: How many files there are.
    """

    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]
    unlisted: tuple[str, ...]
    files: int


def check_holdings(run: Path, *, fast: bool) -> Holdings:
    """Hold the files of a run folder against its inventory.

    Args:
        run: The run folder.
        fast: Look at sizes, at digests of digests, and into what is small. Otherwise all is read
            but the stores of slides, which are checked with their slide.
    """
    inventory = read_inventory(run.absolute())
    here = {file.relative_to(run).as_posix(): file for file in listed_files(run)}
    wrong = [
        *_of_inventory(run, inventory),
        *_changed(here, inventory.entries, fast=fast),
        *_missing(here, inventory.entries),
    ]
    if inventory.entries:
        wrong += _unknown(here, inventory.entries)
    return Holdings(
        findings=tuple(each for each in wrong if not _by_hand(each.name)),
        remarks=tuple(
            f"{each.name}: {each.problem}; people correct such files"
            for each in wrong
            if _by_hand(each.name)
        ),
        unlisted=tuple(_unlisted(here, inventory.entries)),
        files=len(here),
    )


def _of_inventory(run: Path, inventory: Inventory) -> Iterator[Finding]:
    for problem in inventory.problems:
        yield Finding(NAME, problem)
    if not (run / NAME).exists():
        if run.joinpath(*LOCK).exists():
            yield Finding(NAME, "is missing: what the run holds was listed there")
    elif not inventory.begun:
        yield Finding(NAME, "does not begin as it was begun")


def _changed(
    here: Mapping[str, Path], entries: Mapping[str, Entry], *, fast: bool
) -> Iterator[Finding]:
    for name, file in here.items():
        entry = entries.get(name, Entry())
        if not fast and is_store(name):
            continue
        problem = difference(entry, file, fast=fast) if entry.prints else ""
        if not problem and fast and is_store(name):
            problem = _seal_of(file)
        if problem:
            yield Finding(name, problem)


def _missing(here: Mapping[str, Path], entries: Mapping[str, Entry]) -> Iterator[Finding]:
    for name, entry in entries.items():
        if name not in here and not entry.gone:
            yield Finding(name, "is missing: it was written, and none of our stages removed it")


def _unknown(here: Mapping[str, Path], entries: Mapping[str, Entry]) -> Iterator[Finding]:
    """Find files that no line names; pictures of pages are known by what they are called."""
    for name, file in here.items():
        if name in entries:
            continue
        if file.parent.name != PICTURES:
            yield Finding(name, f"stands in no line of {NAME}: another's, or lines are gone")
        elif picture_name(file.read_bytes()) != file.stem:
            yield Finding(name, "is not the picture that its name says")
    for name, file in here.items():
        if file.suffix == ".html":
            shown = set(SHOWN.findall(file.read_text("utf-8", "replace")))
            for lost in sorted(each for each in shown if not (file.parent / each).exists()):
                yield Finding(name, f"shows {lost}, which is missing")


def is_store(name: str) -> bool:
    """Whether a file is the store of a slide, or the root of one."""
    path = PurePosixPath(name)
    return path.parts[0] in STORES and (path.suffix == STORE or path.name == ZARR)


def _seal_of(file: Path) -> str:
    """Say what is wrong with a store as far as sizes and digests of digests tell."""
    try:
        if file.name == ZARR:
            open_tiles(file.parent)
        else:
            read_seal(file)
    except WsiError as error:
        return str(error)
    return ""


def _unlisted(here: Mapping[str, Path], entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yield files of whose bytes nothing is known, as they are older than all inventories."""
    for name, file in here.items():
        entry = entries.get(name)
        if entry is None:
            old = not entries and file.parent.name != PICTURES
        else:
            old = not entry.prints and not entry.gone
        if old:
            yield name


def _by_hand(name: str) -> bool:
    return PurePosixPath(name).parts[0] in BY_HAND
