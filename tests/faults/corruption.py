"""Seeded corruptions of a run folder, one at a time, and whether verify finds each.

``python tests/faults/corruption.py PAGE.md [COUNT]`` builds two tiny runs, does COUNT (1,000) of
them, and writes the table of what was found and missed into a page.
"""

import contextlib
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import h5py
import numpy as np

from wsi_pipeline import inventory
from wsi_pipeline.events import Event, Note, SlideFailed
from wsi_pipeline.inventory import read_inventory
from wsi_pipeline.pipeline import verify
from wsi_pipeline.verbs import VERBS
from wsi_pipeline.verbs.runs import VerifyConfig

SEED = 17
KINDS = (
    "flip", "zero", "truncate", "delete", "swap of slides", "swap of runs", "roll", "scale", "edit",
    "stale source",
)  # fmt: skip
ZEROED = 4096  # bytes, at most
WORKERS = 2
SOUND_EVERY = 10  # corruptions after which the undamaged run is verified, and must pass
BEGIN, END = "<!-- corruptions -->", "<!-- end of corruptions -->"


@dataclass(frozen=True)
class Runs:
    """Two finished runs of the same slides with other settings, and the slides."""

    run: Path
    other: Path
    slides: Path


def build(folder: Path, *, quick: bool = False) -> Runs:
    """Make the two runs: tiles as Zarr and HDF5, features, a model, predictions, a report.

    ``quick`` leaves the second one at its features.
    """
    do("demo", folder=folder, cohort_only=True, patients_per_label=3, side_px=1024, tma_rows=0)
    slides = folder / "slides"
    runs = Runs(folder / "run", folder / "other", slides)
    lines = (slides / "cohort.csv").read_text().splitlines(keepends=True)
    for run, tile_px in ((runs.run, 64), (runs.other, 72)):
        for part, store in ((lines[1:8], "zarr"), (lines[8:], "hdf5")):
            table = slides / f"{store}.csv"
            table.write_text("".join([lines[0], *part]))
            do(
                "tile", cohort=table, slides=slides, run=run, tile_px=tile_px, store=store,
                max_background_fraction=1,
            )  # fmt: skip
        do("extract", run=run, encoder="test_resnet", weights="random", device="cpu")
        if quick and run == runs.other:
            break
        do(
            "train", run=run, encoder="test_resnet", device="cpu", epochs=2, resamples=100,
            accept_risk="tiny",
        )  # fmt: skip
        do("predict", run=run, device="cpu")
        do("report", run=run)
    return runs


def do(verb: str, **settings: object) -> list[Event]:
    """Run a stage here and return what it said."""
    stage = VERBS[verb]
    return list(stage.run(stage.config_class.from_mapping(settings, verb)))


def findings(runs: Runs, *, fast: bool = False) -> Iterator[str]:
    """Yield what verify has to say against the run."""
    inventory._kept.cache_clear()  # as in a process of its own
    config = VerifyConfig(run=runs.run, slides=runs.slides, fast=fast)
    for event in verify.run(config):
        if isinstance(event, SlideFailed):
            yield event.error
        elif isinstance(event, Note) and "people correct" in event.text:
            yield event.text


def artifacts(runs: Runs) -> dict[str, list[Path]]:
    """Return every file that a stage or a person reads, by kind."""
    found: dict[str, list[Path]] = {}
    for path in sorted(runs.run.rglob("*")):
        name = path.relative_to(runs.run)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and name.parts[0] != "logs":
            found.setdefault(_kind(name), []).append(path)
    cut = {path.stem for path in (runs.run / "tiles").iterdir()}
    found["slide"] = [path for path in sorted(runs.slides.glob("*.svs")) if path.stem in cut]
    return found


def _kind(name: Path) -> str:
    first, last = name.parts[0], name.name
    if first == "tiles" and name.suffix != ".h5":
        if last == "zarr.json":
            return "Zarr metadata"
        shard, coords = "tiles" in name.parts[2:], "coords" in name.parts
        return "Zarr shard" if shard else "Zarr coords" if coords else "Zarr column"
    kinds = {
        "tiles": "HDF5 tiles", "features": "features", "thumbnails": "thumbnail",
        "heatmaps": "heatmap", "report": "report", "splits": "splits",
    }  # fmt: skip
    if first == "predictions":
        return "prediction" if name.suffix == ".h5" else "table of predictions"
    if first == "models":
        return f"model: {last}"
    return kinds.get(first, last)


@dataclass(frozen=True)
class Corruption:
    """One: its kind, what it was done to, and whether it was found."""

    kind: str
    artifact: str
    where: str
    found: bool


def corrupt(runs: Runs, count: int, seed: int = SEED) -> Iterator[Corruption]:
    """Do ``count`` corruptions, one after the other, each undone before the next."""
    rng = np.random.default_rng(seed)
    kinds = artifacts(runs)
    done = 0
    while done < count:
        kind = KINDS[done % len(KINDS)]
        what = "slide" if kind == "stale source" else str(rng.choice([*kinds.keys() - {"slide"}]))
        path = kinds[what][rng.integers(len(kinds[what]))]
        with undone(*kinds[what]):
            if not DAMAGE[kind](path, rng, _partners(runs, path, kinds[what])):
                continue
            found = any(findings(runs))
        done += 1
        if done % SOUND_EVERY == 0 and (alarms := list(findings(runs))):
            raise AssertionError(f"not undone after {kind} of {path}: {alarms}")
        yield Corruption(kind, what, str(path), found)


def _partners(runs: Runs, path: Path, alike: list[Path]) -> Mapping[str, list[Path]]:
    """Return the files that one may be swapped with: of other slides, of the other run."""
    if path.is_relative_to(runs.run):
        other = runs.other / path.relative_to(runs.run)
        across = [other] if other.exists() else []
    else:
        across = []
    return {"slides": [each for each in alike if each != path], "runs": across}


@contextlib.contextmanager
def undone(*paths: Path) -> Iterator[None]:
    """Bring back what the files were."""
    before = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, content in before.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)


Partners = Mapping[str, list[Path]]
Damage = Callable[[Path, np.random.Generator, Partners], bool]


def _write(path: Path, content: bytes) -> bool:
    """Put bytes in a file's place; False if they are the same."""
    if path.read_bytes() == content:
        return False
    path.write_bytes(content)
    return True


def flip(path: Path, rng: np.random.Generator, partners: Partners) -> bool:
    content = bytearray(path.read_bytes())
    for place in rng.integers(len(content), size=rng.integers(1, 9)):
        content[place] ^= int(rng.integers(1, 256))
    return _write(path, bytes(content))


def zero(path: Path, rng: np.random.Generator, partners: Partners) -> bool:
    content = bytearray(path.read_bytes())
    begin = int(rng.integers(len(content)))
    size = min(int(rng.integers(1, ZEROED + 1)), len(content) - begin)
    content[begin : begin + size] = bytes(size)
    return _write(path, bytes(content))


def truncate(path: Path, rng: np.random.Generator, partners: Partners) -> bool:
    content = path.read_bytes()
    return _write(path, content[: int(rng.integers(len(content)))])


def delete(path: Path, rng: np.random.Generator, partners: Partners) -> bool:
    path.unlink()
    return True


def swap_slides(path: Path, rng: np.random.Generator, partners: Partners) -> bool:
    if not partners["slides"]:
        return False
    other = partners["slides"][rng.integers(len(partners["slides"]))]
    mine, theirs = path.read_bytes(), other.read_bytes()
    return _write(path, theirs) and _write(other, mine)


def swap_runs(path: Path, rng: np.random.Generator, partners: Partners) -> bool:
    return bool(partners["runs"]) and _write(path, partners["runs"][0].read_bytes())


def roll(path: Path, rng: np.random.Generator, partners: Partners) -> bool:
    if path.suffix == ".h5":
        return _in_dataset(path, rng, lambda values: np.roll(values, 1, axis=0))
    content = path.read_bytes()
    if path.suffix in (".csv", ".jsonl", ".json", ".html"):
        lines = content.splitlines(keepends=True)
        return _write(path, b"".join([*lines[:1], *lines[2:], *lines[1:2]]))
    step = 8 if len(content) % 8 == 0 else 4
    return _write(path, content[step:] + content[:step])


def scale(path: Path, rng: np.random.Generator, partners: Partners) -> bool:
    if path.suffix == ".h5":
        return _in_dataset(path, rng, lambda values: (values * 1.5).astype(values.dtype))
    if path.suffix in (".csv", ".json", ".jsonl", ".html"):
        return _in_text(path, rng, lambda number: f"{float(number) * 1.5:g}")
    values = np.frombuffer(path.read_bytes(), np.uint8)
    return _write(path, (values.astype(np.uint16) * 3 // 2).astype(np.uint8).tobytes())


def edit(path: Path, rng: np.random.Generator, partners: Partners) -> bool:
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            names = sorted(file.attrs)
            file.attrs[names[rng.integers(len(names))]] = "edited"
        return True
    if path.suffix in (".csv", ".json", ".jsonl", ".html", ".geojson"):
        return _in_text(path, rng, lambda number: str(int(float(number)) + 1))
    return flip(path, rng, partners)


def stale(path: Path, rng: np.random.Generator, partners: Partners) -> bool:
    """The slide's file is another's now, or cut short."""
    if rng.integers(2):
        return swap_slides(path, rng, partners)
    return truncate(path, rng, partners)


def _in_dataset(
    path: Path, rng: np.random.Generator, change: Callable[[np.ndarray], np.ndarray]
) -> bool:
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, it: names.append(name) if hasattr(it, "dtype") else None)
        dataset = file[names[rng.integers(len(names))]]
        values = dataset[()]
        changed = change(values)
        if np.array_equal(values, changed):
            return False
        dataset[...] = changed
    return True


def _in_text(path: Path, rng: np.random.Generator, change: Callable[[str], str]) -> bool:
    text = path.read_text("utf-8")
    numbers = list(re.finditer(r"\d+(\.\d+)?", text))
    if not numbers:
        return False
    one = numbers[rng.integers(len(numbers))]
    if len(one[0]) > 18:
        return False
    return _write(path, (text[: one.start()] + change(one[0]) + text[one.end() :]).encode())


DAMAGE: Mapping[str, Damage] = {
    "flip": flip, "zero": zero, "truncate": truncate, "delete": delete,
    "swap of slides": swap_slides, "swap of runs": swap_runs, "roll": roll, "scale": scale,
    "edit": edit, "stale source": stale,
}  # fmt: skip


def table(done: list[Corruption]) -> str:
    """Return found of done, by artifact and kind, in Markdown."""
    tried = Counter((each.artifact, each.kind) for each in done)
    found = Counter((each.artifact, each.kind) for each in done if each.found)
    rows = ["| | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    for artifact in sorted({each.artifact for each in done}):
        cells = [
            f"{found[artifact, kind]}/{tried[artifact, kind]}" if tried[artifact, kind] else ""
            for kind in KINDS
        ]
        rows.append(f"| {artifact} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def copied(runs: Runs, folder: Path) -> Runs:
    """Copy runs and slides into a folder, to be damaged there."""
    mine = Runs(*(folder / path.name for path in (runs.run, runs.other, runs.slides)))
    for source, target in zip(astuple(runs), astuple(mine), strict=True):
        shutil.copytree(source, target)
    return mine


def share(runs: Runs, folder: Path, count: int, seed: int) -> list[Corruption]:
    """Do a part of them on a copy of the runs, which nobody else touches."""
    mine = copied(runs, folder)
    if alarms := list(findings(mine)):
        raise SystemExit(f"false alarm: {alarms}")
    done = list(corrupt(mine, count, seed))
    if alarms := list(findings(mine)):
        raise SystemExit(f"false alarm at the end: {alarms}")
    return done


def main() -> int:
    page, count = Path(sys.argv[1]), int((*sys.argv, "1000")[2])
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(WORKERS) as pool:
        folder = Path(name)
        runs = build(folder / "built")
        files = len(read_inventory(runs.run).entries)
        parts = [
            pool.submit(share, runs, folder / str(n), count // WORKERS, SEED + n)
            for n in range(WORKERS)
        ]
        done = [each for part in parts for each in part.result()]
    for each in done:
        if not each.found:
            sys.stdout.write(f"missed: {each}\n")
    missed = sum(not each.found for each in done)
    told = (
        f"{BEGIN}\n{len(done)} corruptions (seed {SEED}) of a run of {files} files, {missed} "
        f"missed; no false alarm before, at the end, or after every {SOUND_EVERY}th; found of "
        f"tried:\n\n{table(done)}\n{END}"
    )
    text = page.read_text("utf-8") if page.exists() else f"{BEGIN}{END}\n"
    head, _, rest = text.partition(BEGIN)
    page.write_text(f"{head}{told}{rest.partition(END)[2]}", "utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
