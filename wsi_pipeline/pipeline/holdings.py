"""What a run folder holds, held against its inventory: what is lost, changed, or another's."""

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
from wsi_pipeline.run_folder import STORE
from wsi_pipeline.tiles import open_tiles

STORES: Final = ("tiles", "features", "predictions")  # checked with their slide, when all is read
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
        wrong += [
            Finding(name, f"stands in no line of {NAME}: another program's, or lines are gone")
            for name in here
            if name not in inventory.entries
        ]
    return Holdings(
        findings=tuple(each for each in wrong if not _by_hand(each.name)),
        remarks=tuple(
            f"{each.name}: {each.problem}; people correct such files"
            for each in wrong
            if _by_hand(each.name)
        ),
        unlisted=tuple(n for n in here if _is_old(inventory.entries.get(n, Entry()))),
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


def _is_old(entry: Entry) -> bool:
    return not entry.prints and not entry.gone


def _by_hand(name: str) -> bool:
    return PurePosixPath(name).parts[0] in BY_HAND
