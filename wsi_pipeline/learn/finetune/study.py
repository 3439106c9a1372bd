"""Who is trained on and who is tested on, where the input is tiles or images, not features."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.learn.external import FrozenModels, SealedCohort, seal_external
from wsi_pipeline.learn.finetune.sources import (
    ImageSource,
    StoreSource,
    TileSource,
    image_cohort,
    with_tiles,
)
from wsi_pipeline.learn.splits import (
    Splits,
    assert_no_patient_overlap,
    labelled,
)
from wsi_pipeline.learn.study import SplitPlan, draw_splits

EXTERNAL: Final = "external"


@dataclass(frozen=True, kw_only=True)
class TileStudy:
    """What a network is fine-tuned on.

    Attributes:
        splits: The internal slides, each in its part.
        sealed: The external cohort; None if there is none.
        source: Opens the tiles of slides; those sealed are not asked for before they are handed
            out.
        usable: Returns the slides that have tiles.
        notes: What was left out, and why.
    """

    splits: Splits
    sealed: SealedCohort | None
    source: Callable[[Splits], TileSource]
    usable: Callable[[Splits], Splits]
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels, in the order of the network's outputs."""
        return tuple(sorted({slide.label for slide in self.splits}))

    def part(self, name: str) -> Splits:
        """Return the slides of one part."""
        return tuple(slide for slide in self.splits if slide.split == name)

    def inventory(self) -> Iterator[dict[str, str | int]]:
        """Yield a row for each split and class: how many patients, slides and tiles it has."""
        for split in ("train", "val", "test"):
            for label in self.classes:
                found = tuple(slide for slide in self.part(split) if slide.label == label)
                yield {
                    "split": split,
                    "class": label,
                    "patients": len({slide.patient_id for slide in found}),
                    "slides": len(found),
                    "tiles": sum(self.source(found).counts) if found else 0,
                }
        if self.sealed is not None:
            yield {"split": EXTERNAL, "class": self.sealed.name, "slides": len(self.sealed)}

    def open_external(self, frozen: FrozenModels) -> tuple[Splits, tuple[str, ...]]:
        """Hand out the external slides that can be judged; nothing else does, and only once.

        Returns:
            The slides, and what was left out and why.

        Raises:
            LearnError: They were handed out before, or the models changed since they were frozen.
        """
        assert self.sealed is not None
        slides = self.sealed.open(frozen)
        foreign = Counter(slide.label for slide in slides if slide.label not in self.classes)
        notes = [
            f"{count} external slides of {label!r}, which is not trained on, are left out"
            for label, count in foreign.items()
        ]
        known = tuple(slide for slide in slides if slide.label in self.classes)
        kept = self.usable(known)
        if len(kept) < len(known):
            notes.append(f"{len(known) - len(kept)} external slides have no tiles")
        return kept, tuple(notes)


def prepare_stores(cohort: Iterable[CohortSlide], folder: Path, plan: SplitPlan) -> TileStudy:
    """Split the slides that have a tile store in ``folder``.

    Raises:
        LearnError: They cannot be split.
    """
    cohort = tuple(cohort)
    known, sealed = seal_external(labelled(cohort), plan.external)
    kept = with_tiles(folder, known)
    notes = []
    if unlabelled := sum(slide.label is None for slide in cohort):
        notes.append(f"{unlabelled} slides without a label are left out")
    if len(kept) < len(known):
        notes.append(f"{len(known) - len(kept)} of {len(known)} slides have no tiles")
    return TileStudy(
        splits=_one_split(kept, plan),
        sealed=sealed,
        source=lambda slides: StoreSource(folder, slides),
        usable=lambda slides: with_tiles(folder, slides),
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class ImageFolders:
    """Flat images: a folder of images a class in each of ``internal`` and ``external``.

    ``pattern`` finds the patient in a file's name, see :func:`sources.image_cohort`; images are
    held as squares of ``side`` px.
    """

    internal: Path
    external: Path | None = None
    pattern: str | None = None
    side: int = 224


def prepare_images(folders: ImageFolders, plan: SplitPlan) -> TileStudy:
    """Split the images of a folder by patient; those of the external folder are sealed.

    Raises:
        LearnError: There are none, or they cannot be split.
    """
    slides, nameless = image_cohort(folders.internal, folders.pattern)
    paths = {slide.slide_id: folders.internal / slide.path for slide in slides}
    notes = []
    if nameless:
        notes.append(
            f"the patients of {nameless} images are not known: each counts as a patient of its "
            "own, so images of one patient may be on both sides of the split, and the test figures "
            "may be too good (--patient-pattern finds patients in the files' names)"
        )
    if folders.external is not None:
        outside, _ = image_cohort(folders.external, folders.pattern, EXTERNAL)
        renamed = [
            CohortSlide(
                slide_id=f"{EXTERNAL}-{slide.slide_id}", path=slide.path, label=slide.label,
                patient_id=slide.patient_id if folders.pattern else f"{EXTERNAL}-{slide.slide_id}",
                cohort=EXTERNAL,
            )
            for slide in outside
        ]  # fmt: skip
        paths |= {slide.slide_id: folders.external / slide.path for slide in renamed}
        slides += renamed
    known, sealed = seal_external(labelled(slides), None if folders.external is None else EXTERNAL)
    return TileStudy(
        splits=_one_split(known, plan),
        sealed=sealed,
        source=lambda found: ImageSource(found, paths, folders.side),
        usable=lambda found: found,
        notes=tuple(notes),
    )


def _one_split(slides: Splits, plan: SplitPlan) -> Splits:
    (splits,) = draw_splits(slides, plan)
    assert_no_patient_overlap(splits)
    return splits
