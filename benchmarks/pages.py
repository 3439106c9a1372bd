"""Report and QC page of many slides: bytes, and seconds until a browser has loaded them.

    python -m benchmarks.pages demo/run /tmp/many --slides 400   # a finished run, copied so often
    python -m benchmarks.pages --measure /tmp/many/run           # its pages, as they are there

Tile stores are shared with the run they are made of (hard links); every thumbnail and heatmap gets
a stamp of its own, so that no two pictures are the same.
"""

import argparse
import os
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import cv2

from benchmarks.browser import fetch_all, open_page
from wsi_pipeline.cohort import read_cohort, write_cohort
from wsi_pipeline.run_folder import BundleFile, RunFolder
from wsi_pipeline.tables import read_table, write_csv


def multiply(source: Path, target: Path, slides: int) -> None:
    """Make a run folder of so many slides out of one with fewer: patients, too, are new ones."""
    of, into = RunFolder(source), RunFolder(target)
    rows = [row for row in read_cohort(of.cohort) if (of.tiles / f"{row.slide_id}.zarr").exists()]
    copies = -(-slides // len(rows))
    shutil.copytree(of.models, into.models)
    shutil.copytree(of.logs, into.logs)
    made = []
    for copy in range(copies):
        for row in rows[: slides - len(made)]:
            made.append(replace(row, slide_id=f"{row.slide_id}x{copy}",
                                patient_id=f"{row.patient_id}x{copy}"))  # fmt: skip
            _link(of, into, row.slide_id, made[-1].slide_id)
    write_cohort(into.cohort, made)
    for bundle in into.bundles():
        for file in (BundleFile.SPLITS, BundleFile.PREDICTIONS):
            table = read_table(bundle / file)
            written = [
                {**row.cells, **{name: f"{row.cells[name]}x{copy}"
                                 for name in ("slide_id", "patient_id")}}
                for copy in range(copies) for row in table
            ]  # fmt: skip
            write_csv(bundle / file, table.columns, written)


def _link(of: RunFolder, into: RunFolder, old: str, new: str) -> None:
    store = into.tiles / f"{new}.zarr"
    shutil.copytree(of.tiles / f"{old}.zarr", store, copy_function=os.link)
    pairs = [(of.thumbnail(old), into.thumbnail(new))]
    for kind in of.heatmaps.glob("*"):
        pairs += [
            (kind / f"{old}.{end}", into.heatmaps / kind.name / f"{new}.{end}")
            for end in ("png", "json")
        ]
    for there, here in pairs:
        here.parent.mkdir(parents=True, exist_ok=True)
        if here.suffix == ".json":
            os.link(there, here)
        elif there.exists():
            rgb = cv2.imread(str(there))
            cv2.putText(rgb, new, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0))
            cv2.imwrite(str(here), rgb)


def measure(page: Path) -> str:
    """Return a row of the table."""
    opened = open_page(page)
    seen = fetch_all(page)
    folder = sum(file.stat().st_size for file in page.parent.rglob("*") if file.is_file())
    first = opened[0]
    return (
        f"| {page.parent.name} | {page.stat().st_size / 1e6:.1f} | {folder / 1e6:.1f} | "
        f"{statistics.median(each.load_s for each in opened):.2f} | {first.images} | "
        f"{first.shown} | {seen['missing']} | {'yes' if first.wide else 'no'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("target", type=Path, nargs="?")
    parser.add_argument("--slides", type=int, default=400)
    parser.add_argument("--measure", type=Path)
    asked = parser.parse_args()
    if asked.measure is None:
        multiply(asked.source, asked.target / "run", asked.slides)
        return
    print("| page | MB | MB with its pictures | s to load | images | loaded by then | that "
          "cannot be fetched | wider than 1,024 px |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    run = RunFolder(asked.measure)
    for page in (run.report, run.decisions_page):
        if page.exists():
            print(measure(page), flush=True)


if __name__ == "__main__":
    main()
