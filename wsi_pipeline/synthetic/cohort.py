"""Plan a synthetic cohort: who, which slides, which scanner, what went wrong with the glass."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from wsi_pipeline.atomic import write_text
from wsi_pipeline.cohort import CohortSlide, write_cohort
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.synthetic.seeds import generator

LABELS: Final = ("cca", "hcc", "normal")
COHORT: Final = "synthetic"
TMA_COHORT: Final = "synthetic-tma"
TMA_ID: Final = "SYN-TMA1"
CONTROL: Final = "SYN-CONTROL"

Artefact = Literal["none", "pen-blue", "pen-green", "pen-black", "blank", "blurred", "truncated"]


@dataclass(frozen=True, kw_only=True)
class CoreSpec:
    """One place of a core map.

    Attributes:
        row: ``A``, ``B``, … from the top.
        column: From 1 at the left.
        core_id: As in the core map.
        patient_id, label: Whose tissue and what it is.
        present: False when the core was lost in cutting.
        x, y: Where its centre lies, level-0 pixels.
        diameter_px: Of the core at level 0.
    """

    row: str
    column: int
    core_id: str
    patient_id: str
    label: str
    present: bool
    x: int
    y: int
    diameter_px: int


@dataclass(frozen=True, kw_only=True)
class SlideSpec:
    """Everything that determines the bytes of one slide.

    Attributes:
        seed: Of the cohort; a slide's own randomness comes from it and the slide's id.
        slide_id: Also the stem of the file.
        patient_id, label: None for a TMA slide, whose cores have their own.
        cohort, scanner: As in the cohort table.
        width, height: Level-0 pixels, 0.25 µm each.
        artefact: What is wrong with the glass or the file.
        cores: The core map of a TMA slide, else empty.
    """

    seed: int
    slide_id: str
    patient_id: str | None
    label: str | None
    cohort: str
    scanner: str
    width: int
    height: int
    artefact: Artefact = "none"
    cores: tuple[CoreSpec, ...] = ()

    @property
    def file_name(self) -> str:
        """Name of the slide's file in the cohort's folder."""
        return f"{self.slide_id}.svs"

    @property
    def tma_map(self) -> str | None:
        """Name of the core map in the cohort's folder."""
        return f"{self.slide_id}.cores.csv" if self.cores else None


def plan_cohort(
    seed: int = 0,
    *,
    patients_per_label: int = 8,
    side_px: int = 3584,
    tma_grid: tuple[int, int] = (5, 6),
    include_broken: bool = False,
) -> list[SlideSpec]:
    """Plan slides of three labels and one TMA slide of other patients.

    Every fourth patient has two slides. Both scanners serve every label alike, and ids do not tell
    the label. Three slides bear pen marks; two further slides are blank and out of focus.

    Args:
        seed: Equal seeds give equal bytes.
        patients_per_label: Patients of each label on whole slides.
        side_px: Mean side of a slide in level-0 pixels (0.25 µm).
        tma_grid: Rows and columns of the TMA; (0, 0) leaves the TMA out.
        include_broken: Add one slide whose file ends in the middle.

    Raises:
        ConfigError: A count or size makes no cohort.
    """
    if patients_per_label < 1 or side_px < 512 or min(tma_grid) < 0:
        raise ConfigError(
            f"a cohort needs patients_per_label >= 1, side_px >= 512 and a TMA of >= 0 rows and "
            f"columns; got {patients_per_label}, {side_px}, {tma_grid[0]} x {tma_grid[1]}"
        )
    rng = generator(seed, "cohort")
    specs = _whole_slides(rng, seed, patients_per_label, side_px)
    specs += _spoilt_slides(specs, include_broken)
    if tma_grid[0] * tma_grid[1] > 0:
        first = len(LABELS) * patients_per_label + 1
        specs.append(_tma_slide(rng, seed, tma_grid, first))
    return specs


def write_tables(specs: list[SlideSpec], out_dir: Path) -> Path:
    """Write ``cohort.csv`` and the core maps beside the slides.

    Returns:
        The path of the cohort table.
    """
    for spec in specs:
        if spec.tma_map is not None:
            rows = ["row,column,core_id,patient_id,label"]
            rows += [
                f"{core.row},{core.column},{core.core_id},{core.patient_id},{core.label}"
                for core in spec.cores
            ]
            write_text(out_dir / spec.tma_map, "\n".join(rows) + "\n")
    table = out_dir / RunFolder().cohort.name
    write_cohort(
        table,
        [
            CohortSlide(
                slide_id=spec.slide_id,
                path=spec.file_name,
                patient_id=spec.patient_id,
                label=spec.label,
                cohort=spec.cohort,
                scanner=spec.scanner,
                tma_map=spec.tma_map,
                tma_lies=None if spec.tma_map is None else "as-scanned",
            )
            for spec in specs
        ],
    )
    return table


def patient_name(number: int) -> str:
    """The id of a synthetic patient."""
    return f"SYN-{number:04d}"


def _whole_slides(
    rng: np.random.Generator, seed: int, patients_per_label: int, side_px: int
) -> list[SlideSpec]:
    numbers = rng.permutation(len(LABELS) * patients_per_label) + 1
    specs = []
    for index, number in enumerate(numbers):
        label = LABELS[index % len(LABELS)]
        turn = index // len(LABELS)  # counts the patients of one label
        for section in range(2 if turn % 4 == 0 else 1):
            width, height = (64 * round(side_px * rng.uniform(0.85, 1.15) / 64) for _ in "wh")
            specs.append(
                SlideSpec(
                    seed=seed,
                    slide_id=f"{patient_name(int(number))}-{section + 1}",
                    patient_id=patient_name(int(number)),
                    label=label,
                    cohort=COHORT,
                    scanner="synthetic-a" if turn % 2 == 0 else "synthetic-b",
                    width=width,
                    height=height,
                )
            )
    specs.sort(key=lambda spec: spec.slide_id)
    pens: tuple[Artefact, ...] = ("pen-blue", "pen-green", "pen-black")
    for label, pen in zip(LABELS, pens, strict=True):
        marked = next(i for i, spec in enumerate(specs) if spec.label == label)
        specs[marked] = replace(specs[marked], artefact=pen)
    return specs


def _spoilt_slides(specs: list[SlideSpec], include_broken: bool) -> list[SlideSpec]:
    """One more slide of some patients, of which nothing can be learned."""
    kinds: tuple[Artefact, ...] = ("blank", "blurred")
    if include_broken:
        kinds += ("truncated",)
    # Each kind spoils a slide of the last patient of another label.
    patients = {spec.label: spec for spec in specs}
    return [
        replace(spec, slide_id=f"{spec.patient_id}-9", artefact=kind)
        for kind, spec in zip(kinds, (patients[label] for label in LABELS), strict=False)
    ]


def _tma_slide(rng: np.random.Generator, seed: int, grid: tuple[int, int], first: int) -> SlideSpec:
    """Two cores of each patient, labels in turn; one control core, and some cores lost."""
    pitch, diameter, margin = 2600, 2048, 560
    rows, columns = grid
    turn = np.deg2rad(rng.uniform(-1.0, 1.0))
    total = rows * columns
    lost = set(rng.choice(np.arange(1, total), total // 12, replace=False).tolist())
    whose = rng.permutation(total)
    cores = []
    for index in range(total):
        row, column = divmod(index, columns)
        x, y = (column - (columns - 1) / 2) * pitch, (row - (rows - 1) / 2) * pitch
        jitter = rng.normal(0.0, 60.0, 2).clip(-150.0, 150.0)
        patient = int(whose[index]) // 2
        name = f"{chr(ord('A') + row)}{column + 1:02d}"
        control = index == total - 1
        cores.append(
            CoreSpec(
                row=chr(ord("A") + row),
                column=column + 1,
                core_id=f"{TMA_ID}-{name}",
                patient_id=CONTROL if control else patient_name(first + patient),
                label="normal" if control else LABELS[patient % len(LABELS)],
                present=index not in lost or control,
                x=round(margin + pitch * columns / 2 + x * np.cos(turn) - y * np.sin(turn)
                        + jitter[0]),
                y=round(margin + pitch * rows / 2 + x * np.sin(turn) + y * np.cos(turn)
                        + jitter[1]),
                diameter_px=round(diameter * rng.uniform(0.95, 1.05)),
            )
        )  # fmt: skip
    return SlideSpec(
        seed=seed,
        slide_id=TMA_ID,
        patient_id=None,
        label=None,
        cohort=TMA_COHORT,
        scanner="synthetic-c",
        width=2 * margin + columns * pitch,
        height=2 * margin + rows * pitch,
        cores=tuple(cores),
    )
