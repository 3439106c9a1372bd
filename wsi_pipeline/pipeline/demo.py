"""The demo: a synthetic cohort, generated, then taken through the whole pipeline as a study.

Everything in it is drawn by a program; its accuracy is no claim about medicine.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wsi_pipeline.atomic import write_text
from wsi_pipeline.engine import SlideTask, map_slides
from wsi_pipeline.errors import EncoderError
from wsi_pipeline.events import Event, Note, Planned, SlideDone, SlideSkipped, StageStarted, Written
from wsi_pipeline.features import DEFAULT, encoder_tag
from wsi_pipeline.pipeline.run import run as run_study
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import digest
from wsi_pipeline.synthetic import TMA_COHORT, SlideSpec, plan_cohort, write_slide, write_tables
from wsi_pipeline.verbs.runs import DemoConfig, RunConfig

PACKAGED_ENCODER: Final = "tf_efficientnet_lite0"

STUDY: Final = """\
# The demo as a study file: `python -m wsi_pipeline.run {folder}/study.toml` runs it again and finds
# everything done.

[study]
run = "{folder}/run"
cohort = "{folder}/slides/cohort.csv"
slides = "{folder}/slides"
encoder = "{encoder}"
weights = "{weights}"

[tile]

[extract]

[train]
external = "{external}"

[predict]

[report]
title = "Synthetic demo cohort"
"""


def run(config: DemoConfig) -> Iterator[Event]:
    """Generate what is missing of the cohort, then run ``<folder>/study.toml``."""
    yield from generate(config)
    if config.cohort_only or config.dry_run:
        return
    encoder, weights, why = _encoder(config.encoder)
    yield Note(text=f"encoder {encoder}: {why}")
    study = config.folder / "study.toml"
    write_text(
        study,
        STUDY.format(folder=config.folder, encoder=encoder, weights=weights, external=TMA_COHORT),
    )
    how = {"workers": config.workers, "scheduler": config.scheduler}
    yield from run_study(RunConfig(study=study, overwrite=config.overwrite, **how))  # type: ignore[arg-type]


def generate(config: DemoConfig) -> Iterator[Event]:
    """Write the cohort's slides, its table and its core map into ``<folder>/slides``."""
    specs = plan_cohort(
        config.seed,
        patients_per_label=config.patients_per_label,
        side_px=config.side_px,
        tma_grid=(config.tma_rows, config.tma_columns),
        include_broken=config.include_broken,
    )
    yield StageStarted(stage="generate", total=len(specs))
    if config.dry_run:
        for spec in specs:
            yield Planned(
                row={"slide": spec.slide_id, "width px": spec.width, "height px": spec.height}
            )
        return
    slides = config.folder / "slides"
    slides.mkdir(parents=True, exist_ok=True)
    tasks = [
        SlideTask(
            slide_id=spec.slide_id,
            lock=RunFolder(config.folder).lock("generate", spec.slide_id),
            payload=(spec, slides),
        )
        for spec in sorted(specs, key=lambda spec: -spec.width * spec.height)
    ]
    yield from map_slides(generate_slide, tasks, config)
    table = write_tables(specs, slides)
    yield Written(path=str(table), what="cohort table")


def generate_slide(payload: tuple[object, Path]) -> SlideDone | SlideSkipped:
    """Write one slide, unless the file there was written from the same plan."""
    spec, folder = payload
    assert isinstance(spec, SlideSpec)
    started = time.monotonic()
    stamp = folder / f".{spec.slide_id}.plan"
    plan = digest(repr(spec))
    if (folder / spec.file_name).exists() and stamp.exists() and stamp.read_text() == plan:
        return SlideSkipped(slide_id=spec.slide_id, reason="generated earlier")
    stamp.unlink(missing_ok=True)
    write_slide(spec, folder)
    write_text(stamp, plan)
    return SlideDone(slide_id=spec.slide_id, seconds=time.monotonic() - started)


def _encoder(asked: str) -> tuple[str, str, str]:
    """Return the encoder's name, where its weights come from, and why it is this one."""
    if asked not in ("auto", PACKAGED_ENCODER):
        return asked, "auto", "asked for"
    if asked == "auto":
        try:
            encoder_tag(DEFAULT, "auto")
            return DEFAULT, "auto", "its ImageNet weights are in the hub's reach"
        except EncoderError as error:
            why = f"the packaged stand-in, since {error}"
            return PACKAGED_ENCODER, "package", why
    return PACKAGED_ENCODER, "package", "its ImageNet weights come from an installed package"
