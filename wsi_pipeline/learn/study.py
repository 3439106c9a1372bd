"""A cohort made ready for learning: who is trained on, who is tested on, who stays sealed.

What is learned from, stored features or the pixels of tiles, is a :class:`Source`; where sources
come from is a :class:`Material`. A study is the same story for either.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import ConfigError, LearnError, named
from wsi_pipeline.learn.audit import (
    NEAR,
    Audit,
    SlideEvidence,
    Subject,
    TileVectors,
    audit_study,
    audit_table,
    gather,
    identify,
)
from wsi_pipeline.learn.bags import FeatureFolder, differs, shared_settings
from wsi_pipeline.learn.external import (
    FrozenModels,
    SealedCohort,
    external_ids,
    seal_external,
)
from wsi_pipeline.learn.settings import SplitSettings, TaskSettings
from wsi_pipeline.learn.splits import (
    INTERNAL,
    Splits,
    assert_no_patient_overlap,
    draw_splits,
    join_folds,
    labelled,
    splits_digest,
)
from wsi_pipeline.settings import digest


class Source(Protocol):
    """Tiles or features of labelled slides; it opens the slides it was given, no other."""

    slides: Splits

    def tile_count(self, slide_id: str) -> int:
        """Return how many tiles a slide has."""

    def digests(self) -> dict[str, str]:
        """Return the digest of each slide's tiles or features, by slide."""

    def prepared(self) -> dict[str, dict[str, Any]]:
        """Return how each slide was made, as far as a model depends on it, by slide."""


SourceT = TypeVar("SourceT", bound=Source)
Evidence = Callable[[Iterable[str], Iterable[str]], dict[str, SlideEvidence]]


@dataclass(frozen=True, kw_only=True)
class Material(Generic[SourceT]):
    """What there is to learn from, before it is split.

    Attributes:
        what: ``features`` or ``tiles``.
        cohort: All slides, or images as slides of one tile.
        external: The cohort that is held out.
        open: Opens slides; those sealed are not asked for before they are handed out.
        missing: Returns the slides of which there is nothing.
        vectors: Returns what the audit compares tiles by; two are one that are nearer than
            ``near`` of the usual distance.
        evidence: Returns, for the audit, what is known of internal slides and what identifies
            external ones.
        notes: What was left out, and why.
    """

    what: str
    cohort: tuple[CohortSlide, ...]
    external: str | None
    open: Callable[[Splits], SourceT]
    missing: Callable[[Splits], list[str]]
    vectors: Callable[[SourceT], TileVectors]
    near: float
    evidence: Evidence
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Study(Generic[SourceT]):
    """What models are made from.

    Attributes:
        material: Where it comes from.
        source: Tiles or features of the internal slides.
        splits: The internal slides, each in its part; under cross-validation in its fold.
        folds: Under cross-validation, each fold's split; else empty.
        whole_sites: No site is in two parts or folds.
        sealed: The external cohort; None if there is none.
        prepared: How all slides were made.
        notes: What was left out, and why.
    """

    material: Material[SourceT]
    source: SourceT
    splits: Splits
    folds: tuple[Splits, ...] = ()
    whole_sites: bool = False
    sealed: SealedCohort | None
    prepared: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels, in the order of a model's outputs."""
        return tuple(sorted({slide.label for slide in self.splits}))

    @cached_property
    def digests(self) -> dict[str, Any]:
        """Digests of ``splits``, of all features or tiles, and of those of each slide (bag)."""
        bags = self.source.digests()
        return {"splits": splits_digest(self.splits), self.material.what: digest(bags),
                "bags": bags}  # fmt: skip

    def part(self, name: str) -> Splits:
        """Return the slides of one part."""
        return tuple(slide for slide in self.splits if slide.split == name)

    def fold(self, index: int) -> "Study[SourceT]":
        """Return the study of one fold, without the external cohort."""
        return replace(self, splits=self.folds[index], folds=(), sealed=None)

    def inventory(self) -> Iterator[dict[str, str | int]]:
        """Yield a row for each split and class: how many patients, slides and tiles it has."""
        order = {name: rank for rank, name in enumerate(INTERNAL)}
        parts = {slide.split for slide in self.splits}
        for split in sorted(parts, key=lambda name: (order.get(name, 0), name)):
            for label in self.classes:
                found = [slide for slide in self.part(split) if slide.label == label]
                yield {
                    "split": split,
                    "class": label,
                    "patients": len({slide.patient_id for slide in found}),
                    "slides": len(found),
                    "tiles": sum(self.source.tile_count(slide.slide_id) for slide in found),
                }
        if self.sealed is not None:
            yield {"split": "external", "class": self.sealed.name, "slides": len(self.sealed)}

    def audit(self, least_tested: int = 1) -> Audit:
        """Look for leaks and for nuisances that predict the label.

        Args:
            least_tested: Patients of each class that the test part must have.

        Raises:
            LearnError: A picture is unreadable.
            StoreError: A store is unreadable.
        """
        material = self.material
        subject = Subject(
            splits=self.splits,
            folds=len(self.folds),
            whole_sites=self.whole_sites,
            digests=self.digests["bags"],
            tiles=material.vectors(self.source),
            near=material.near,
        )
        inside = [slide.slide_id for slide in self.splits]
        evidence = material.evidence(inside, external_ids(material.cohort, material.external))
        return audit_study(subject, material.cohort, evidence, least_tested=least_tested)

    def open_external(self, frozen: FrozenModels) -> tuple[Splits, SourceT, tuple[str, ...]]:
        """Open the external cohort; nothing else opens it, and it opens once.

        Returns:
            The slides that can be judged, their tiles or features, and what was left out and why.

        Raises:
            LearnError: There is none, it was opened before, the models changed since they were
                frozen, or its slides were made in another way than those trained on.
        """
        if self.sealed is None:
            raise LearnError("the study has no external cohort; name one with --external")
        slides = self.sealed.open(frozen)
        foreign = Counter(slide.label for slide in slides if slide.label not in self.classes)
        notes = [
            f"{count} external slides of {label!r}, which is not trained on, are left out"
            for label, count in foreign.items()
        ]
        known = tuple(slide for slide in slides if slide.label in self.classes)
        kept, left_out = _with_data(known, self.material, "external ")
        source = self.material.open(kept)
        for slide_id, found in source.prepared().items():
            for name, expected in self.prepared.items():
                if differs(name, expected, found.get(name)):
                    raise LearnError(
                        f"external slide {slide_id!r} was prepared differently: {name} is "
                        f"{found.get(name)!r}, trained on {expected!r}; tile and extract it alike"
                    )
        return kept, source, (*notes, *left_out)


def audit_cohort(material: Material[Any], asked: SplitSettings) -> Audit:
    """Look for what makes a split impossible or void, in the cohort table alone."""
    return audit_table(labelled(material.cohort), asked)


def prepare_study(
    material: Material[SourceT], asked: SplitSettings, *, allow_overlap: bool = False
) -> Study[SourceT]:
    """Set the external part apart, split the rest by patient, look at how it was prepared.

    Args:
        material: All slides; those without a label are left out.
        asked: How to split.
        allow_overlap: Take given splits that share patients, an audited and accepted risk.

    Raises:
        LearnError: The slides cannot be split, or they do not belong together.
        StoreError: A store is unreadable.
    """
    known, sealed = seal_external(labelled(material.cohort), material.external)
    internal, left_out = _with_data(known, material)
    site_of = {slide.slide_id: slide.site for slide in material.cohort if slide.site}
    folds = draw_splits(internal, asked, site_of, allow_overlap=allow_overlap)
    splits = join_folds(folds) if asked.folds else folds[0]
    if not allow_overlap:
        assert_no_patient_overlap(splits)
    source = material.open(splits)
    unlabelled = sum(slide.label is None for slide in material.cohort)
    notes = [f"{unlabelled} slides without a label are left out"] if unlabelled else []
    return Study(
        material=material,
        source=source,
        splits=splits,
        folds=tuple(folds) if asked.folds else (),
        whole_sites=asked.split == "site",
        sealed=sealed,
        prepared=shared_settings(source.prepared()),
        notes=(*material.notes, *notes, *left_out),
    )


def from_features(
    cohort: Iterable[CohortSlide], run: Path, stores: Path, external: str | None
) -> Material[FeatureFolder]:
    """Return the slides of a run folder, whose features of one encoder are in ``stores``."""
    return Material(
        what="features",
        cohort=tuple(cohort),
        external=external,
        open=lambda slides: FeatureFolder(stores, slides),
        missing=lambda slides: FeatureFolder(stores, slides).missing(),
        vectors=lambda folder: folder,
        near=NEAR,
        evidence=lambda inside, outside: gather(run, stores, inside) | identify(run, outside),
    )


def pose(material: Material[SourceT], task: TaskSettings) -> Material[SourceT]:
    """Return the material with the classes of a task in the place of the table's labels.

    Slides of classes that are not used are left out, and a note says so.

    Raises:
        ConfigError: There is no such label or class, or the column is empty.
    """
    column = task.label_column
    rows = [replace(row, label=getattr(row, column)) for row in material.cohort]
    if column != "label" and not any(row.label for row in rows):
        raise ConfigError(f"--label-column {column}: the cohort table has nothing in it")
    classes = task.classes_of(row.label for row in rows if row.label)
    lost = Counter(row.label for row in rows if row.label and row.label not in classes)
    notes = [f"{count} slides of {label!r} are left out: not asked for" for label, count in
             lost.items()]  # fmt: skip
    kept = [replace(row, label=classes[row.label] if row.label else None)
            for row in rows if row.label not in lost]  # fmt: skip
    return replace(material, cohort=tuple(kept), notes=(*material.notes, *notes))


def _with_data(
    slides: Splits, material: Material[Any], which: str = ""
) -> tuple[Splits, tuple[str, ...]]:
    """Return the slides that there is something of, and a note that names the others."""
    missing = material.missing(slides)
    if not missing:
        return slides, ()
    kept = tuple(slide for slide in slides if slide.slide_id not in set(missing))
    which = f"{len(missing)} of {len(slides)} {which}slides"
    return kept, (f"{which} have no {material.what} ({named(missing)})",)
