"""What reads a finished run again: verify, predict and heatmaps, beside the bare reading.

python -m benchmarks.reading_back [--only verify predict heatmaps] [--pixels SLIDE]

Each is called within the benchmark's process, on files in the system's cache, so that what is told
is the work and not the disk: verify beside the reading of the same files and their XXH3 digests,
predict beside the reading and scoring of the features, heatmaps of one slide of 100,000 px.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.learning import ENCODER, make_cohort
from benchmarks.measure import Table, arguments, interleave, per_second, write_tables
from benchmarks.slides import Scan, read_patch, write_scan
from wsi_pipeline.digests import file_digest
from wsi_pipeline.events import Event, SlideDone, SlideFailed
from wsi_pipeline.features import choose_device, read_features
from wsi_pipeline.learn import SlidePrediction, load_ensemble
from wsi_pipeline.pipeline.predict_slide import PlacedPrediction, draw, score
from wsi_pipeline.reporting import SlideFrame, read_heatmaps
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.types import Region, RgbImage
from wsi_pipeline.verbs import VERBS

MEASURED: Final = ("verify", "predict", "heatmaps")
SLIDES: Final = 12
TILES: Final = 3000  # of a slide
SIDE: Final = 12_288  # of a scan that is cut
WIDE: Final = 100_000  # px, of the slide with heatmaps …
ACROSS: Final = 245  # … and its tiles: 60,025


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--only", nargs="+", choices=MEASURED, default=MEASURED)
    given = parser.parse_args()
    tables: list[Table] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {"verify", "predict"} & set(given.only):
            make_cohort(folder / "run", SLIDES, TILES)
            _call("train", run=folder / "run", encoder=ENCODER, epochs=2)
        if "predict" in given.only:
            tables.append(_predict(folder / "run", given.rounds))
        if "verify" in given.only:
            if not (folder / "run" / "predictions").exists():
                _call("predict", run=folder / "run", device="cpu")
            _cut(folder, read_patch(given.pixels))
            tables += [
                _verify("tiles", folder / "cut", given.rounds),
                _verify("features", folder / "run", given.rounds),
            ]
        if "heatmaps" in given.only:
            tables.append(_heatmaps(folder, given.rounds))
    write_tables(tables, given.out)


def _call(verb: str, **settings: Any) -> list[Event]:
    """Run a verb in this process; all that it looks at must be well."""
    found = VERBS[verb]
    events = list(found.run(found.config_class.from_mapping(settings, "benchmark")))
    failed = [event.error for event in events if isinstance(event, SlideFailed)]
    if failed:
        raise RuntimeError(f"{verb}: {failed[0]}")
    return events


def _cut(folder: Path, patch: RgbImage) -> None:
    (folder / "slides").mkdir()
    for number in range(3):
        write_scan(folder / "slides" / f"s{number}.svs", Scan(side=SIDE), patch)
    _call("tile", cohort=folder / "slides", run=folder / "cut")


def _verify(what: str, run: Path, rounds: int) -> Table:
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6

    def rate(work: Callable[[Path], object], over: Iterable[Path]) -> Callable[[], float]:
        def each() -> int:
            for path in over:
                work(path)
            return round(megabytes)

        return per_second(each)

    rates = interleave(
        {
            "all files read": rate(Path.read_bytes, files),
            "all files' XXH3": rate(file_digest, files),
            "verify": rate(lambda path: _call("verify", run=path), [run]),
        },
        rounds,
    )
    return Table(
        name=f"verify-{what}", title=f"Verify, {what}", unit="MB/s", rates=rates, ours=("verify",),
        notes=(f"{megabytes:,.0f} MB in {len(files)} files, all in the system's cache",),
    )  # fmt: skip


def _predict(run: Path, rounds: int) -> Table:
    bundle = RunFolder(run).bundles()[0]
    model = load_ensemble(bundle, choose_device("cpu"))
    stores = sorted(RunFolder(run).features_of(ENCODER).glob("*.h5"))

    def bare() -> int:
        for path in stores:
            score(model, read_features(path), {})
        return len(stores)

    def predict(**settings: Any) -> Callable[[], float]:
        def work() -> int:
            shutil.rmtree(run / "predictions", ignore_errors=True)  # else nothing is done anew
            events = _call("predict", run=run, device="cpu", **settings)
            return sum(isinstance(event, SlideDone) for event in events)

        return per_second(work)

    rates = interleave(
        {
            "features read and scored": per_second(bare),
            "predict, tables alone": predict(heatmaps=False, geojson=False),
            "predict": predict(),
        },
        rounds,
    )
    return Table(
        name="predict", title="Predict", unit="slides/s", rates=rates,
        ours=("predict, tables alone", "predict"),
        notes=(f"{len(stores)} slides of {TILES:,} tiles with 1,024 features, float16",
               "with two maps as PNG and OME-TIFF, and detections for QuPath, unless tables alone"),
    )  # fmt: skip


def _heatmaps(folder: Path, rounds: int) -> Table:
    side = WIDE / ACROSS
    rows, columns = np.divmod(np.arange(ACROSS**2), ACROSS)
    rng = np.random.default_rng(0)
    probability = rng.random(ACROSS**2, np.float32)
    found = SlidePrediction(
        classes=("normal", "tumour"),
        coords=np.rint(np.stack([columns, rows], axis=1) * side).astype(np.int64),
        tiles=np.stack([1 - probability, probability], axis=1),
        attention={"abmil": rng.dirichlet(np.ones(ACROSS**2)).astype(np.float32)},
        slide={"abmil": np.array([0.2, 0.8])},
        novelty=0.0,
        made_from={},
    )
    frame = SlideFrame(area=Region(x=0, y=0, width=WIDE, height=WIDE), mpp=0.25)
    placed = PlacedPrediction(slide_id="s", found=found, side=side, frame=frame, store=None)
    target = folder / "maps" / "heatmaps"

    def drawn() -> int:
        draw(target, "model", placed, "abmil")
        return 1

    def shown() -> int:
        return len(read_heatmaps(target, "s")) // 2

    rates = interleave({"drawn": per_second(drawn), "read for a report": per_second(shown)}, rounds)
    seconds = {name: [1 / each for each in found] for name, found in rates.items()}
    return Table(
        name="heatmaps", title="Heatmaps of one slide of 100,000 px",
        unit="s, less is better", rates=seconds, ours=tuple(seconds),
        notes=(f"{ACROSS**2:,} tiles, two maps, each as PNG, OME-TIFF and OME-TIFF of the numbers",
               "random values, which pack badly"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
