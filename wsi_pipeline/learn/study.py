"""A cohort made ready for learning: who is trained on, who is tested on, who stays sealed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.config import digest
from wsi_pipeline.errors import LearnError, named
from wsi_pipeline.learn.bags import FeatureFolder
from wsi_pipeline.learn.external import FrozenModels, SealedCohort, seal_external
from wsi_pipeline.learn.folds import fold_patients, join_folds, split_sites
from wsi_pipeline.learn.prepared import feature_settings, same_setting, shared_settings
from wsi_pipeline.learn.splits import (
    INTERNAL,
    Splits,
    SplitSlide,
    assert_no_patient_overlap,
    honour_splits,
    labelled,
    split_patients,
    splits_digest,
)


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """How slides are split.

    Attributes:
        source: ``given`` by the table's split column, drawn at ``random`` by patient, or by whole
            ``site``; ``auto`` takes the column where it is filled in, else draws by patient.
        folds: Of cross-validation; 0 for one split.
        external: The cohort that is held out entirely.
        test_fraction, val_fraction: Of all patients; of those that are not tested on.
        seed: Of what is drawn.
        allow_overlap: Take given splits that share patients, an audited and accepted risk.
    """

    source: Literal["auto", "random", "given", "site"] = "auto"
    folds: int = 0
    external: str | None = None
    test_fraction: float = 0.2
    val_fraction: float = 0.2
    seed: int = 0
    allow_overlap: bool = False

    def takes_given(self, slides: Iterable[SplitSlide]) -> bool:
        """Whether the table's split column decides."""
        filled = any(slide.split not in ("", "external") for slide in slides)
        return self.source == "given" or (self.source == "auto" and filled)


@dataclass(frozen=True, kw_only=True)
class Study:
    """What models are made from.

    Attributes:
        folder: Features of the internal slides.
        classes: All labels, in the order of a model's outputs.
        splits: The internal slides, each in its part; under cross-validation in its fold.
        folds: Under cross-validation, each fold's split; else empty.
        whole_sites: No site is in two parts or folds.
        sealed: The external cohort.
        features: Settings that all bags share.
        digests: Of ``splits``, of all ``features`` and of each of the ``bags``.
        notes: What was left out, and why.
    """

    folder: FeatureFolder
    classes: tuple[str, ...]
    splits: Splits
    folds: tuple[Splits, ...] = ()
    whole_sites: bool = False
    sealed: SealedCohort | None
    features: dict[str, Any]
    digests: dict[str, Any]
    notes: tuple[str, ...]

    def fold(self, index: int) -> "Study":
        """Return the study of one fold, without the external cohort."""
        splits = self.folds[index]
        digests = self.digests | {"splits": splits_digest(splits)}
        return replace(self, splits=splits, folds=(), sealed=None, digests=digests)

    def inventory(self) -> Iterator[dict[str, str | int]]:
        """Yield a row for each split and class: how many patients, slides and tiles it has."""
        order = {name: rank for rank, name in enumerate(INTERNAL)}
        parts = {slide.split for slide in self.splits}
        for split in sorted(parts, key=lambda name: (order.get(name, 0), name)):
            for label in self.classes:
                part = [s for s in self.splits if (s.split, s.label) == (split, label)]
                tiles = sum(len(self.folder.bag(slide.slide_id).features) for slide in part)
                patients = len({slide.patient_id for slide in part})
                yield {
                    "split": split,
                    "class": label,
                    "patients": patients,
                    "slides": len(part),
                    "tiles": tiles,
                }
        if self.sealed is not None:
            yield {"split": "external", "class": self.sealed.name, "slides": len(self.sealed)}


def prepare_study(cohort: Iterable[CohortSlide], stores: Path, plan: SplitPlan) -> Study:
    """Set the external part apart, split the rest by patient, look at how it was prepared.

    Args:
        cohort: All slides; those without a label are left out.
        stores: The folder of one encoder's feature stores.
        plan: How to split.

    Raises:
        LearnError: The slides cannot be split, or their features do not belong together.
        StoreError: A feature store is unreadable.
    """
    cohort = tuple(cohort)
    known, sealed = seal_external(labelled(cohort), plan.external)
    internal, left_out = with_features(known, stores)
    folds = draw_splits(internal, plan, {s.slide_id: s.site for s in cohort if s.site})
    splits = join_folds(folds) if plan.folds else folds[0]
    if not plan.allow_overlap:
        assert_no_patient_overlap(splits)
    folder = FeatureFolder(stores, splits)
    settings = {s.slide_id: feature_settings(folder.bag(s.slide_id).attributes) for s in splits}
    unlabelled = sum(slide.label is None for slide in cohort)
    notes = [f"{unlabelled} slides without a label are left out"] if unlabelled else []
    bags = folder.digests()
    return Study(
        folder=folder,
        classes=tuple(sorted({slide.label for slide in splits})),
        splits=splits,
        folds=tuple(folds) if plan.folds else (),
        whole_sites=plan.source == "site",
        sealed=sealed,
        features=shared_settings(settings),
        digests={"splits": splits_digest(splits), "features": digest(bags), "bags": bags},
        notes=(*notes, *left_out),
    )


def open_external(
    study: Study, frozen: FrozenModels
) -> tuple[Splits, FeatureFolder, tuple[str, ...]]:
    """Open the study's external cohort; nothing else opens it, and it opens once.

    Returns:
        The slides that can be judged, their features, and what was left out and why.

    Raises:
        LearnError: There is none, it was opened before, the models changed since they were frozen,
            or its features were made in another way than those trained on.
    """
    if study.sealed is None:
        raise LearnError("the study has no external cohort; name one with --external")
    slides = study.sealed.open(frozen)
    notes = []
    foreign = Counter(slide.label for slide in slides if slide.label not in study.classes)
    for label, count in foreign.items():
        notes.append(f"{count} external slides of {label!r}, which is not trained on, are left out")
    slides = tuple(slide for slide in slides if slide.label in study.classes)
    slides, left_out = with_features(slides, study.folder.folder)
    folder = FeatureFolder(study.folder.folder, slides)
    for slide in slides:
        found = feature_settings(folder.bag(slide.slide_id).attributes)
        for name, expected in study.features.items():
            if not same_setting(expected, found.get(name)):
                raise LearnError(
                    f"external slide {slide.slide_id!r} was prepared differently: {name} is "
                    f"{found.get(name)!r}, trained on {expected!r}; tile and extract it alike"
                )
    return slides, folder, (*notes, *left_out)


def with_features(slides: Sequence[SplitSlide], stores: Path) -> tuple[Splits, tuple[str, ...]]:
    """Return the slides that have features, and a note that names the others."""
    missing = FeatureFolder(stores, slides).missing()
    if not missing:
        return tuple(slides), ()
    kept = tuple(slide for slide in slides if slide.slide_id not in set(missing))
    return kept, (f"{len(missing)} of {len(slides)} slides have no features ({named(missing)})",)


def draw_splits(
    slides: Splits, plan: SplitPlan, site_of: Mapping[str, str] | None = None
) -> list[Splits]:
    """Return the split, or that of each fold.

    Args:
        slides: The internal slides.
        plan: How to split them.
        site_of: Site of each slide, where whole sites are to be kept.

    Raises:
        LearnError: They cannot be split so.
    """
    site_of = site_of or {}
    val, seed = plan.val_fraction, plan.seed
    if plan.takes_given(slides):
        if plan.folds:
            raise LearnError(
                "the cohort table gives splits, and --folds draws its own; pass --split random "
                "(or site), or leave --folds out"
            )
        overlap = plan.allow_overlap
        return [honour_splits(slides, val_fraction=val, seed=seed, allow_overlap=overlap)]
    if plan.folds:
        sites = site_of if plan.source == "site" else None
        return fold_patients(slides, folds=plan.folds, val_fraction=val, seed=seed, site_of=sites)
    test = plan.test_fraction
    if plan.source == "site":
        return [split_sites(slides, site_of, test_fraction=test, val_fraction=val, seed=seed)]
    return [split_patients(slides, test_fraction=test, val_fraction=val, seed=seed)]
