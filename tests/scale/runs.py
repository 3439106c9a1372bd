"""A small cohort, a model, and run folders to be held against each other by their digests."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from wsi_pipeline.events import Event, SlideFailed
from wsi_pipeline.verbs import VERBS

ENCODER = {"encoder": "test_resnet", "weights": "random", "device": "cpu"}
LEFT_OUT = ("logs", ".locks", "inventory.jsonl", "slides")  # when, not what


@dataclass(frozen=True)
class Study:
    """Slides with their table, a trained model, and a run that nothing disturbed."""

    slides: Path
    cohort: Path
    model: Path
    whole: Path

    def stages(self, run: Path | str, **how: object) -> Iterable[tuple[str, dict[str, object]]]:
        """Yield verb and settings of the three stages that are shared out."""
        yield "tile", {"cohort": self.cohort, "run": run, "tile_px": 64, **LENIENT, **how}
        yield "extract", {"run": run, **ENCODER, **how}
        yield (
            "predict",
            {"run": run, "model": self.model, "heatmaps": False, "device": "cpu", **how},
        )


EMPTY = "SYN-0009-9"  # a slide without tissue
LENIENT = {"max_background_fraction": 1}
QUICK = {"heatmaps": False, "device": "cpu"}


def build(folder: Path) -> Study:
    do("demo", folder=folder, cohort_only=True, patients_per_label=3, side_px=1024, tma_rows=0)
    study = Study(
        slides=folder / "slides",
        cohort=folder / "slides" / "cohort.csv",
        model=folder / "model",
        whole=folder / "whole",
    )
    rows = study.cohort.read_text().splitlines(keepends=True)
    study.cohort.write_text("".join(row for row in rows if not row.startswith(EMPTY)))
    for verb, settings in study.stages(study.whole):
        if verb == "predict":
            do(
                "train", run=study.whole, encoder="test_resnet", device="cpu", epochs=1,
                resamples=100, accept_risk="tiny", name="m",
            )  # fmt: skip
            (study.whole / "models" / "m").rename(study.model)
        do(verb, **settings)
    return study


def do(verb: str, **settings: object) -> list[Event]:
    """Run a stage here; none of its slides may be lost."""
    stage = VERBS[verb]
    events = list(stage.run(stage.config_class.from_mapping(settings, verb)))
    assert not [event for event in events if isinstance(event, SlideFailed)], events
    return events


def do_shard(
    study: Study, run: Path | str, verb: str, shard: str, scratch: Path | None = None
) -> None:
    how = {} if scratch is None else {"scratch": scratch}
    do(verb, **dict(study.stages(run, shard=shard, **how))[verb])


ROOMS = ("cohort.csv", "tiles", "thumbnails", "features", "predictions", "heatmaps")


def digests(run: Path) -> dict[str, str]:
    """Return the digest of every file that the three stages make, by name."""
    return {
        path.relative_to(run).as_posix(): blake2b(path.read_bytes()).hexdigest()
        for room in ROOMS
        for path in sorted([run / room, *(run / room).rglob("*")])
        if path.is_file() and not path.name.startswith(".")
    }
