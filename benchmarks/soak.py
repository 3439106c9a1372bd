"""Thousands of small slides through tile, extract, predict and verify, each verb in one process.

python -m benchmarks.soak FOLDER [--slides 2000] [--only draw|tile|extract|predict|verify|table]

Twice a second it is asked what the verb's process holds: memory, open files, threads. The slides
done by then come from the run's journal. A leak shows as a slope, work that grows with what was
done before as a curve that bends. Each step leaves its samples in FOLDER, so that they can be run
one by one.
"""

import argparse
import csv
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import psutil
from matplotlib.figure import Figure

from benchmarks.measure import RESULTS
from benchmarks.slides import read_patch, write_picture
from wsi_pipeline.events import SlideDone, SlideFailed, SlideSkipped
from wsi_pipeline.journal import read_journal
from wsi_pipeline.reporting.style import ACCENT, MUTED, render
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.types import RgbImage

SECONDS: Final = 0.5  # between two looks at the process
SIDES: Final = (1024, 2048)
GLASS: Final = 242  # grey of the margin
CLASSES: Final = {"hcc": (1.0, 0.94, 1.0), "cca": (0.95, 1.0, 0.98)}  # what tells them apart: tint
LABELLED: Final = 40  # slides of the cohort that the model is trained on
COLUMNS: Final = (
    "slides", "s", "ms a slide, first → second half", "MB, early → late", "kB more a slide",
    "files, early → late", "threads, early → late",
)  # fmt: skip
VERBS: Final = ("tile", "extract", "predict", "verify")
ENCODER: Final = ("--encoder", "test_resnet", "--weights", "random", "--device", "cpu")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a process held ``second`` seconds after it began.

    Attributes:
        done: Slides that were through by then.
        mb: Resident memory, 10^6 bytes.
        files: Open files and sockets.
        threads: Of the process.
    """

    second: float
    done: int
    mb: float
    files: int
    threads: int


def draw(folder: Path, slides: int, patch: RgbImage) -> None:
    """Write slides of 1,024 to 2,048 px of the patch, no two alike, and their cohort table."""
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(slides):
        rng = np.random.default_rng(number)
        name, label = f"S{number:05d}", list(CLASSES)[number % len(CLASSES)]
        side, margin = 64 * int(rng.integers(SIDES[0] // 64, SIDES[1] // 64 + 1)), 128
        x, y = rng.integers(0, len(patch) - side + 2 * margin + 1, 2)
        tissue = patch[y : y + side - 2 * margin, x : x + side - 2 * margin]
        table = np.rint(np.arange(256)[:, None] * np.array(CLASSES[label])).astype(np.uint8)
        pixels = np.full((side, side, 3), GLASS, np.uint8)
        pixels[margin:-margin, margin:-margin] = cv2.LUT(tissue, table.reshape(1, 256, 3))
        write_picture(folder / "slides" / f"{name}.svs", pixels)
        rows.append(
            (name, f"{name}.svs", f"P{number:05d}", label if number < LABELLED else "", "soak")
        )
    with (folder / "cohort.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("slide_id", "path", "patient_id", "label", "cohort"))
        writer.writerows(rows)


def commands(folder: Path, run: str) -> dict[str, list[str]]:
    """Return each verb's command line, and before predict the training of its model."""
    return {
        "tile": ["tile", str(folder / "cohort.csv"), "--slides", str(folder / "slides"),
                 "--run", run],
        "extract": ["extract", run, *ENCODER],
        "train": ["train", run, "--encoder", "test_resnet", "--name", "soak", "--epochs", "5",
                  "--device", "cpu", "--resamples", "100",
                  "--accept-risk", "drawn slides: for the load alone"],
        "predict": ["predict", run, "--model", "soak", "--device", "cpu",
                    "--no-heatmaps", "--no-geojson"],
        "verify": ["verify", run],
    }  # fmt: skip


def watch(verb: str, command: Sequence[str], run: Path) -> list[Sample]:
    """Run a verb in one process and look at it until it ends.

    Raises:
        SystemExit: It failed.
    """
    journal = RunFolder(run).journal
    begun, clock = time.time(), time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "wsi_pipeline", *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said: list[str] = []
    assert process.stderr is not None
    listener = threading.Thread(target=lambda: said.append(process.stderr.read()))  # type: ignore[union-attr]
    listener.start()
    looks: list[tuple[float, float, int, int]] = []
    here = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            looks.append((time.monotonic() - clock, here.memory_info().rss / 1e6,
                          here.num_fds(), here.num_threads()))  # fmt: skip
        except psutil.Error:
            break
        time.sleep(SECONDS)
    process.wait()
    listener.join()
    if process.returncode:
        raise SystemExit(f"{verb} ended with {process.returncode}: {''.join(said)[-2000:]}")
    ends = np.sort([
        entry.time.timestamp() - begun
        for entry in read_journal(journal)
        if entry.verb == verb and entry.time.timestamp() >= begun
        and isinstance(entry.event, SlideDone | SlideSkipped | SlideFailed)
    ])  # fmt: skip
    return [
        Sample(second=second, done=int(np.searchsorted(ends, second)), mb=mb, files=files,
               threads=threads)
        for second, mb, files, threads in looks
    ]  # fmt: skip


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """Return what a verb held and how long slides took, early and late.

    Early is the second tenth of the slides, late the last; the slope of memory is fitted on all
    that comes after the first tenth.
    """
    total = max(sample.done for sample in samples)
    done = np.array([sample.done for sample in samples])
    second = np.array([sample.second for sample in samples])
    busy = (done > 0.1 * total) & (done < total)
    tenths = {"early": (0.1, 0.2), "late": (0.9, 1.0)}
    found: dict[str, float] = {"slides": total, "seconds": float(second[-1])}
    for name, (low, high) in tenths.items():
        inside = (done >= low * total) & (done <= high * total) & (done < total)
        held = [sample for sample, taken in zip(samples, inside, strict=True) if taken]
        held = held or [samples[len(samples) // 2]]
        for what in ("mb", "files", "threads"):
            found[f"{what}_{name}"] = float(np.median([getattr(one, what) for one in held]))
    middle = np.interp((0.1 * total, 0.5 * total, total - 1), done, second)
    found["first_half_ms"] = 1e3 * float(middle[1] - middle[0]) / (0.4 * total)
    found["second_half_ms"] = 1e3 * float(middle[2] - middle[1]) / (0.5 * total)
    megabytes = np.array([sample.mb for sample in samples])
    fits = busy.sum() > 2 and np.ptp(done[busy]) > 0
    slope = np.polyfit(done[busy], megabytes[busy], 1)[0] if fits else 0.0
    found["kb_per_slide"] = 1e3 * float(slope)
    return found


def to_markdown(samples: dict[str, list[Sample]]) -> str:
    """Return the table: a verb a row, early → late."""
    lines = [
        f"| | {' | '.join(COLUMNS)} |",
        "|---|---:|---:|---|---|---:|---|---|",
    ]
    for verb, taken in samples.items():
        row = growth(taken)
        lines.append(
            f"| `{verb}` | {row['slides']:,.0f} | {row['seconds']:,.0f} "
            f"| {row['first_half_ms']:.0f} → {row['second_half_ms']:.0f} "
            f"| {row['mb_early']:.0f} → {row['mb_late']:.0f} | {row['kb_per_slide']:.1f} "
            f"| {row['files_early']:.0f} → {row['files_late']:.0f} "
            f"| {row['threads_early']:.0f} → {row['threads_late']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def plot(samples: dict[str, list[Sample]]) -> bytes:
    """Return the soak's curves as SVG: memory by slides done, and slides done by time."""

    def paint(figure: Figure) -> None:
        panels = figure.subplots(2, len(samples), squeeze=False)
        for column, (verb, taken) in enumerate(samples.items()):
            done = [sample.done for sample in taken]
            above, below = panels[0][column], panels[1][column]
            above.plot(done, [sample.mb for sample in taken], color=ACCENT, linewidth=1.2)
            above.set_title(verb)
            above.set_ylim(bottom=0)
            above.set_xlabel("slides done")
            below.plot([sample.second for sample in taken], done, color=ACCENT, linewidth=1.2)
            last = taken[-1]
            below.plot([0, last.second], [0, last.done], color=MUTED, linewidth=0.8, linestyle=":")
            below.set_xlabel("seconds")
            for axes in (above, below):
                axes.spines[["top", "right"]].set_visible(False)
        panels[0][0].set_ylabel("memory, MB")
        panels[1][0].set_ylabel("slides done")

    return render(paint, (10.0, 4.6), "Memory and progress over the soak").data


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=2000)
    parser.add_argument("--only", choices=("draw", *VERBS, "table"))
    parser.add_argument("--run", type=Path, help="run folder; in FOLDER if not given")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for table and plot")
    parser.add_argument("--pixels", type=Path, help="slide whose pixels are used; drawn if none")
    given = parser.parse_args(arguments)
    steps = (given.only,) if given.only else ("draw", *VERBS, "table")
    run = given.run or given.folder / "run"
    asked = commands(given.folder, str(run))
    if "draw" in steps:
        draw(given.folder, given.slides, read_patch(given.pixels))
    for verb in (step for step in steps if step in VERBS):
        if verb == "predict":
            train = [sys.executable, "-m", "wsi_pipeline", *asked["train"]]
            subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
        taken = watch(verb, asked[verb], run)
        text = json.dumps([asdict(sample) for sample in taken])
        (given.folder / f"{verb}.json").write_text(text, "utf-8")
        print(verb, {name: round(value, 1) for name, value in growth(taken).items()}, flush=True)
    if "table" in steps:
        samples = {verb: read_samples(given.folder / f"{verb}.json") for verb in VERBS}
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "soak.md").write_text(to_markdown(samples), "utf-8")
        (given.out / "soak.svg").write_bytes(plot(samples))
        print(to_markdown(samples))


def read_samples(path: Path) -> list[Sample]:
    """Return what a step left."""
    return [Sample(**one) for one in json.loads(path.read_text("utf-8"))]


if __name__ == "__main__":
    main()
