"""The audit in two steps: of the cohort table, before anything is split, and of the study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.learn.audit.evidence import SlideEvidence
from wsi_pipeline.learn.audit.finding import Audit
from wsi_pipeline.learn.audit.nuisances import find_nuisances
from wsi_pipeline.learn.audit.patients import (
    patients_on_both_sides,
    too_few_to_split,
    too_few_to_test,
)
from wsi_pipeline.learn.audit.slides import find_same_slides, find_similar_slides
from wsi_pipeline.learn.audit.tiles import NEAR, TileVectors, find_similar_tiles
from wsi_pipeline.learn.external import is_external
from wsi_pipeline.learn.settings import SplitSettings
from wsi_pipeline.learn.splits import Splits, SplitSlide


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is audited: how slides are split, and what their tiles are.

    Attributes:
        splits: The internal slides, each in its part; under cross-validation in its fold.
        folds: 0 without cross-validation.
        whole_sites: No site is in two parts or folds.
        digests: Digest of each internal slide's tiles or features.
        tiles: A vector of each of their tiles.
        near: Share of the usual distance that two tiles may be apart and are one.
    """

    splits: Splits
    folds: int = 0
    whole_sites: bool = False
    digests: Mapping[str, str]
    tiles: TileVectors
    near: float = NEAR


def audit_table(slides: Sequence[SplitSlide], plan: SplitSettings) -> Audit:
    """Look for what makes a split impossible or void, in the cohort table alone.

    Args:
        slides: Labelled slides with the ``split`` that the table gives them.
        plan: How they are to be split.
    """
    given = plan.takes_given(slides)
    outside = [is_external(slide, plan.external) for slide in slides]
    inside = [slide for slide, out in zip(slides, outside, strict=True) if not out]
    placed = [
        replace(slide, split="external" if out else slide.split if given else "internal")
        for slide, out in zip(slides, outside, strict=True)
    ]
    few = () if given else too_few_to_split(inside, plan.folds)
    return Audit(findings=(*patients_on_both_sides(placed), *few))


def audit_study(
    subject: Subject,
    cohort: Sequence[CohortSlide],
    evidence: Mapping[str, SlideEvidence],
    *,
    least_tested: int = 1,
) -> Audit:
    """Look for leaks and for nuisances that tell the label.

    Args:
        subject: The internal slides with their parts and tiles.
        cohort: The cohort table's rows, for the nuisances and to name the external slides.
        evidence: What the stores tell of every internal slide, and what identifies external ones.
        least_tested: Patients of each class that the test part must have.
    """
    rows = {slide.slide_id: slide for slide in cohort}
    internal = {slide.slide_id for slide in subject.splits}
    classes = sorted({slide.label for slide in subject.splits})
    outside = [
        SplitSlide(
            slide_id=slide_id,
            patient_id=rows[slide_id].patient_id or slide_id,
            label=rows[slide_id].label or "",
            cohort=rows[slide_id].cohort or "",
            split="external",
        )
        for slide_id in evidence
        if slide_id not in internal
    ]
    everyone = [*subject.splits, *outside]
    tested = too_few_to_test(subject.splits, classes, folds=subject.folds, least=least_tested)
    # an image is one tile, and its copies are found as pictures
    images = all(evidence[slide_id].what == "image" for slide_id in internal)
    similar_tiles = (
        Audit() if images else find_similar_tiles(subject.splits, subject.tiles, subject.near)
    )
    found = (
        Audit(findings=tuple(tested))
        + find_same_slides(everyone, evidence, subject.digests)
        + find_similar_slides(everyone, evidence)
        + similar_tiles
        + find_nuisances(subject.splits, rows, evidence, whole_sites=subject.whole_sites)
    )
    together = {name for members in found.groups() for name in members}
    pictures = {name: path for name in together if (path := evidence[name].thumbnail)}
    return replace(found, pictures=pictures)
