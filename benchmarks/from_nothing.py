"""A study of real slides and a microarray from the query to the report, killed three times.

    python benchmarks/from_nothing.py ../shared/data [--folder FOLDER]

Twelve regions of real slides are held by the tests' stand-in for the GDC, as TCGA slides of two
projects; a microarray is laid out of discs of real liver. Their labels mean nothing: what is shown
is that one command goes all the way, that it can be killed on the way, that slides can be deleted
once they are cut, and what the dry run told beside what came.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openslide
import tifffile
import zarr

ROOT = Path(__file__).parents[1]
SERVER = ROOT / "tests" / "gdc_server" / "server.py"
SIDE = 1280  # of a slide, px
SOURCES = {  # level-0 x, y of three regions of each
    "slides/PDAC-tru-cut_HE3.svs": [(11517, 8062), (9214, 10366), (3455, 18428)],
    "real_liver/liver_tumour_gaps.tif": [(9096, 6822), (9096, 12507), (3411, 7959)],
    "slides/liver_glycogen_HE.tif": [(9214, 2303), (3455, 0), (11517, 6910)],
    "real_liver/liver_capsule_folds.tif": [(7957, 5684), (4547, 9094), (9094, 9094)],
}
PROJECTS = {"hcc": "TCGA-LIHC", "cca": "TCGA-CHOL"}
ROWS, COLUMNS, PITCH, CORE = 5, 4, 1500, 1000  # of the microarray, px
STUDY = """
[study]
run = "run"
cohort = "cohort.csv"
slides = "slides"
encoder = "tf_efficientnet_lite0"
weights = "package"
device = "cpu"

[download]
server = "{server}"
query = "query.toml"
out = "slides"
cohort_out = "cohort.csv"
manifest_out = "manifest.txt"
add_cohort = "{array}"
segment_mib = 1

[tile]
mpp = 0.5
mpp_override = 0.5

[extract]

[train]
external = "tma"

[predict]

[report]
title = "From nothing"
"""
QUERY = """
projects = ["TCGA-LIHC", "TCGA-CHOL"]
[[labels.classes]]
label = "hcc"
project = "TCGA-LIHC"
[[labels.classes]]
label = "cca"
project = "TCGA-CHOL"
"""


@dataclass(kw_only=True)
class Peak:
    """The most bytes that slides and the whole study took on disk."""

    slides: int = 0
    all: int = 0

    def look(self, folder: Path) -> None:
        sizes = {"slides": 0, "all": 0}
        for here, _, names in os.walk(folder):
            for name in names:
                with suppress(FileNotFoundError):
                    size = Path(here, name).stat().st_blocks * 512
                    sizes["all"] += size
                    sizes["slides"] += size * (".svs" in name)
        self.slides, self.all = max(self.slides, sizes["slides"]), max(self.all, sizes["all"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("data", type=Path, help="the folder of real slides")
    parser.add_argument("--folder", type=Path, help="where to work; the system's default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        shown(given.data.absolute(), Path(name))


def shown(data: Path, folder: Path) -> None:
    """Do it twice, undisturbed and killed, and print what came of it."""
    records = list(slides(data, folder))
    array = microarray(data, folder)
    total, largest = (f(each["file_size"] for each in records) for f in (sum, max))
    process = subprocess.Popen(
        [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"  # type: ignore[union-attr]
        call(f"{url}/_set", {"files": records})
        whole = study(folder / "undisturbed", url, array)
        told = output(whole, "--dry-run")
        began, peak = time.monotonic(), Peak()
        watch(start(whole), whole, peak, lambda: False)
        seconds = time.monotonic() - began
        call(f"{url}/_set", {"files": records, "pace": 4e6})
        killed = study(folder / "killed", url, array)
        flags = ["--delete-after-tiling", f"--disk-gb={3.2 * largest / 1e9:.6f}"]
        less = passed(killed, flags, url, total)
        sent = sum(each["sent"] for each in call(f"{url}/_log") if each["path"].startswith("/data"))
    finally:
        process.kill()
        process.wait()
    require_same(whole, killed)
    print("\n".join(line for line in told.splitlines() if line[:8] in HEADS or "fetch" in line))
    stages = seconds_of(whole / "run" / "logs" / "journal.jsonl")
    print(f"came: {total} bytes of slides, {stages}; {seconds:.0f} s in all")
    print(f"undisturbed: slides took {peak.slides / 1e6:.1f} MB at most, all {peak.all / 1e6:.1f}")
    print(f"killed three times, deleted after tiling with room for {3.2 * largest / 1e6:.1f} MB: "
          f"slides took {less.slides / 1e6:.1f} MB at most, all {less.all / 1e6:.1f}; the server "
          f"sent {sent / total:.3f} times the slides' bytes")  # fmt: skip
    print("cohort, tiles, features, models, metrics and predictions of both are equal")


HEADS = ("download", "tile: ab", "extract:")


def slides(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Write regions of real slides; yield what the stand-in holds of each."""
    regions = [(name, place) for name, places in SOURCES.items() for place in places]
    for number, (name, place) in enumerate(regions):
        label = list(PROJECTS)[number % 2]
        patient = f"TCGA-{'ABCDEF'[number // 2]}X-{number:04d}"
        path = folder / f"{patient}-01A-01-TS1.svs"
        with openslide.OpenSlide(data / name) as slide:
            pixels = np.asarray(slide.read_region(place, 0, (SIDE, SIDE)).convert("RGB"))
        tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg")
        yield {
            "file_id": str(uuid.UUID(int=0x1000 + number, version=4)),
            "file_name": path.name,
            "md5sum": hashlib.md5(path.read_bytes()).hexdigest(),
            "file_size": path.stat().st_size,
            "state": "released",
            "access": "open",
            "data_format": "SVS",
            "experimental_strategy": "Tissue Slide",
            "cases": [{"submitter_id": patient, "project": {"project_id": PROJECTS[label]}}],
            "_content": str(path),
        }


def microarray(data: Path, folder: Path) -> Path:
    """Lay discs of real liver out as a microarray; return its cohort table."""
    array = folder / "array"
    array.mkdir()
    picture = np.full((PITCH * (ROWS + 1), PITCH * (COLUMNS + 1), 3), 243, np.uint8)
    y, x = np.ogrid[:CORE, :CORE]
    disc = (x - CORE / 2) ** 2 + (y - CORE / 2) ** 2 < (CORE / 2) ** 2
    with openslide.OpenSlide(data / "real_liver" / "liver_margin_ink.tif") as slide:
        for row, column in product(range(ROWS), range(COLUMNS)):
            place = (CORE * column, CORE * (row + (row > 1)))  # none of the band of ink
            core = np.asarray(slide.read_region(place, 0, (CORE, CORE)).convert("RGB"))
            top, left = PITCH * (row + 1) - CORE // 2, PITCH * (column + 1) - CORE // 2
            picture[top : top + CORE, left : left + CORE][disc] = core[disc]
    tifffile.imwrite(array / "TMA1.tif", picture, tile=(256, 256), photometric="rgb",
                     compression="jpeg")  # fmt: skip
    cores = [("row", "column", "core_id", "patient_id", "label")]
    cores += [("ABCDE"[row], str(column + 1), f"TMA1-{'ABCDE'[row]}{column + 1}",
               f"M{row * COLUMNS + column:02d}", list(PROJECTS)[(row + column) % 2])
              for row, column in product(range(ROWS), range(COLUMNS))]  # fmt: skip
    table(array / "TMA1.csv", cores)
    head = ("slide_id", "path", "patient_id", "label", "cohort", "mpp", "tma_map", "tma_lies")
    table(
        array / "cohort.csv",
        [head, ("TMA1", "TMA1.tif", "", "", "tma", "0.5", "TMA1.csv", "as-scanned")],
    )
    return array / "cohort.csv"


def table(path: Path, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def study(folder: Path, url: str, array: Path) -> Path:
    folder.mkdir()
    (folder / "query.toml").write_text(QUERY)
    (folder / "study.toml").write_text(STUDY.format(server=url, array=array))
    return folder


def passed(folder: Path, flags: list[str], url: str, total: int) -> Peak:
    """Run a study to its end; kill it as files come, between two slides' tiles, and in training."""
    peak, run = Peak(), folder / "run"
    due: list[Callable[[], bool]] = [
        lambda: call(f"{url}/_sent") > 0.1 * total,
        lambda: len(list(run.glob("tiles/*.zarr"))) > len(list(run.glob("features/*/*.h5"))) > 3,
        lambda: (run / "splits").is_dir() or (run / "models").is_dir(),
    ]
    for when in due:
        process = start(folder, *flags)
        watch(process, folder, peak, when)
        if process.returncode != -9:
            raise SystemExit("the study ended before it was killed")
    watch(start(folder, *flags), folder, peak, lambda: False)
    return peak


def command(folder: Path, *flags: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "wsi_pipeline.run", "study.toml", *flags]
    return {"args": words, "cwd": folder, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}


def start(folder: Path, *flags: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(**command(folder, *flags), stdout=subprocess.DEVNULL)


def output(folder: Path, *flags: str) -> str:
    return subprocess.run(
        **command(folder, *flags), check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def watch(
    process: "subprocess.Popen[bytes]", folder: Path, peak: Peak, due: Callable[[], bool]
) -> None:
    """Measure the disk until the process ends; kill it when it is due."""
    while process.poll() is None:
        peak.look(folder)
        if due():
            process.kill()
            process.wait()
            return
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"the study ended with exit status {process.returncode}")


def require_same(one: Path, other: Path) -> None:
    """Compare all that decides a study's result; stop at the first difference."""
    names = [
        sorted(
            str(path.relative_to(folder))
            for path in files_of(folder)
            if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
        for folder in (one, other)
    ]
    if names[0] != names[1]:
        raise SystemExit(f"files differ: {set(names[0]) ^ set(names[1])}")
    for name in names[0]:
        a, b = contents(one / name), contents(other / name)
        if a.keys() != b.keys() or any(not np.array_equal(a[key], b[key]) for key in a):
            raise SystemExit(f"{name} differs")
    print(f"{len(names[0])} tables, stores and models compared")


def files_of(folder: Path) -> Iterator[Path]:
    yield folder / "cohort.csv"
    run = folder / "run"
    for pattern in ("tiles/*.zarr", "features/*/*.h5", "models/*/*", "predictions/*/*"):
        found = run.glob(pattern)
        yield from (path for path in found if path.suffix == ".zarr" or path.is_file())


def contents(path: Path) -> dict[str, Any]:
    if path.suffix == ".zarr":
        return {name: array[:] for name, array in zarr.open_group(path, mode="r").arrays()}
    if path.suffix == ".h5":
        found: dict[str, Any] = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, each: found.update({name: each[()]})
                if isinstance(each, h5py.Dataset) else None
            )  # fmt: skip
        return found
    data = path.read_bytes().replace(b"undisturbed", b"killed")
    if path.suffix == ".json":  # when, how fast, and where are no result
        return {"json": json.dumps(plain(json.loads(data)), sort_keys=True)}
    return {"bytes": data}


def plain(told: Any) -> Any:
    if isinstance(told, dict):
        moving = re.compile(r"second|time|date|created|opened|speed|versions|memory")
        return {name: plain(each) for name, each in told.items() if not moving.search(name)}
    return [plain(each) for each in told] if isinstance(told, list) else told


def seconds_of(journal: Path) -> str:
    """Return what each stage made, and how long it was at it by the clock."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    stage, first, last, sums = "", {}, {}, {}
    for line in lines:
        fields = line["fields"]
        stage = fields.get("stage", stage)
        moment = time.mktime(time.strptime(line["time"][:19], "%Y-%m-%dT%H:%M:%S"))
        first.setdefault(stage, moment)
        if line["event"] == "SlideDone":
            last[stage] = moment
            for name, count in fields["counts"].items():
                sums[stage, name] = sums.get((stage, name), 0) + count
    counted = {"tile": "tiles kept", "extract": "tiles encoded"}
    parts = [f"{name} {sums.get((name, what))} {what} in {last[name] - first[name]:.0f} s"
             for name, what in counted.items()]  # fmt: skip
    return ", ".join(parts)


def call(url: str, told: Any = None) -> Any:
    data = None if told is None else json.dumps(told).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, data=data), timeout=30) as answer:
        body = answer.read()
    return json.loads(body) if told is None else None


if __name__ == "__main__":
    main()
