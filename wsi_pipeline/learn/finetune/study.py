"""Who is trained on and who is tested on, where the input is tiles or images, not features."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.learn.audit import (
    Audit,
    SlideEvidence,
    Subject,
    audit_study,
    gather,
    identify,
)
from wsi_pipeline.learn.external import (
    FrozenModels,
    SealedCohort,
    external_ids,
    seal_external,
)
from wsi_pipeline.learn.finetune.patterns import NEAR, PatternFolder
from wsi_pipeline.learn.finetune.pictures import picture_evidence
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
from wsi_pipeline.run_folder import RunFolder

EXTERNAL: Final = "external"


Evidence = Callable[[Iterable[str], Iterable[str]], dict[str, SlideEvidence]]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What there is to learn from, before it is split.

    Attributes:
        cohort: All slides, or images as slides of one tile.
        external: The cohort that is held out.
        source: Opens the tiles of slides; those sealed are not asked for before they are handed
            out.
        usable: Returns the slides that have tiles.
        evidence: Returns, for the audit, what is known of internal slides and what identifies
            external ones.
        notes: What was left out, and why.
    """

    cohort: tuple[CohortSlide, ...]
    external: str | None
    source: Callable[[Splits], TileSource]
    usable: Callable[[Splits], Splits]
    evidence: Evidence
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TileStudy:
    """What a network is fine-tuned on.

    Attributes:
        material: Where the tiles come from.
        splits: The internal slides, each in its part.
        sealed: The external cohort; None if there is none.
        notes: What was left out, and why.
    """

    material: Material
    splits: Splits
    sealed: SealedCohort | None
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels, in the order of the network's outputs."""
        return tuple(sorted({slide.label for slide in self.splits}))

    def source(self, slides: Splits) -> TileSource:
        """Open the tiles of slides."""
        return self.material.source(slides)

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
        kept = self.material.usable(known)
        if len(kept) < len(known):
            notes.append(f"{len(known) - len(kept)} external slides have no tiles")
        return kept, tuple(notes)

    def audit(self, least_tested: int = 1) -> Audit:
        """Look for leaks and for nuisances that tell the label.

        Raises:
            LearnError: A picture is unreadable.
            StoreError: A store is unreadable.
        """
        source = self.source(self.splits)
        subject = Subject(
            splits=self.splits, digests=source.digests(), tiles=PatternFolder(source), near=NEAR
        )
        inside = [slide.slide_id for slide in self.splits]
        outside = external_ids(self.material.cohort, self.material.external)
        evidence = self.material.evidence(inside, outside)
        return audit_study(subject, self.material.cohort, evidence, least_tested=least_tested)


def split_tiles(material: Material, plan: SplitPlan) -> TileStudy:
    """Set the external part apart, split the rest by patient.

    Raises:
        LearnError: The slides cannot be split.
    """
    known, sealed = seal_external(labelled(material.cohort), material.external)
    kept = material.usable(known)
    notes = list(material.notes)
    if unlabelled := sum(slide.label is None for slide in material.cohort):
        notes.append(f"{unlabelled} slides without a label are left out")
    if len(kept) < len(known):
        notes.append(f"{len(known) - len(kept)} of {len(known)} slides have no tiles")
    (splits,) = draw_splits(kept, plan)
    if not plan.allow_overlap:
        assert_no_patient_overlap(splits)
    return TileStudy(material=material, splits=splits, sealed=sealed, notes=tuple(notes))


def from_stores(cohort: Iterable[CohortSlide], run: Path, external: str | None) -> Material:
    """Return the slides of a run folder, whose tiles are in ``tiles/``."""
    folder = RunFolder(run).tiles
    return Material(
        cohort=tuple(cohort),
        external=external,
        source=lambda slides: StoreSource(folder, slides),
        usable=lambda slides: with_tiles(folder, slides),
        evidence=lambda inside, outside: (
            gather(run, RunFolder(run).features, inside) | identify(run, outside)
        ),
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


def from_images(folders: ImageFolders) -> Material:
    """Return the images of a folder; those of the external folder are a cohort of their own.

    Raises:
        LearnError: There are none.
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
    return Material(
        cohort=tuple(slides),
        external=None if folders.external is None else EXTERNAL,
        source=lambda found: ImageSource(found, paths, folders.side),
        usable=lambda found: found,
        evidence=lambda inside, outside: picture_evidence(paths, inside, outside),
        notes=tuple(notes),
    )
