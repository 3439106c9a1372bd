"""The audit in two steps: of the cohort table, before anything is split, and of the study."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.learn.audit.evidence import SlideEvidence
from wsi_pipeline.learn.audit.finding import Audit
from wsi_pipeline.learn.audit.nuisances import find_nuisances
from wsi_pipeline.learn.audit.people import (
    patients_on_both_sides,
    too_few_to_split,
    too_few_to_test,
)
from wsi_pipeline.learn.audit.slides import find_same_slides, find_similar_slides
from wsi_pipeline.learn.audit.tiles import find_similar_tiles
from wsi_pipeline.learn.splits import SplitSlide
from wsi_pipeline.learn.study import SplitPlan, Study


def audit_table(slides: Sequence[SplitSlide], plan: SplitPlan) -> Audit:
    """Look for what makes a split impossible or void, in the cohort table alone.

    Args:
        slides: Labelled slides with the ``split`` that the table gives them.
        plan: How they are to be split.
    """
    given = plan.takes_given(slides)
    outside = [s.split == "external" or s.cohort == plan.external for s in slides]
    inside = [slide for slide, out in zip(slides, outside, strict=True) if not out]
    placed = [
        replace(slide, split="external" if out else slide.split if given else "internal")
        for slide, out in zip(slides, outside, strict=True)
    ]
    few = () if given else too_few_to_split(inside, plan.folds)
    return Audit(findings=(*patients_on_both_sides(placed), *few))


def audit_study(
    study: Study,
    cohort: Sequence[CohortSlide],
    evidence: Mapping[str, SlideEvidence],
    *,
    least_tested: int = 1,
) -> Audit:
    """Look for leaks and for nuisances that tell the label.

    Args:
        study: The internal slides with their parts and features.
        cohort: The cohort table's rows, for the nuisances and to name the external slides.
        evidence: What the stores tell of every internal slide, and what identifies external ones.
        least_tested: Patients of each class that the test part must have.
    """
    rows = {slide.slide_id: slide for slide in cohort}
    internal = {slide.slide_id for slide in study.splits}
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
    everyone = [*study.splits, *outside]
    tested = too_few_to_test(
        study.splits, study.classes, folds=len(study.folds), least=least_tested
    )
    return (
        Audit(findings=tuple(tested))
        + find_same_slides(everyone, evidence, study.digests["bags"])
        + find_similar_slides(everyone, evidence)
        + find_similar_tiles(study.splits, study.folder)
        + find_nuisances(study.splits, rows, evidence, whole_sites=study.whole_sites)
    )
