"""One slide under two names: the same file, or a picture that looks the same.

Two slides of one patient may be neighbouring sections and look alike, so looks count only between
patients; the same file counts always.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

from wsi_pipeline.errors import named
from wsi_pipeline.learn.audit.evidence import SlideEvidence
from wsi_pipeline.learn.audit.finding import Audit, Finding, Measured
from wsi_pipeline.learn.audit.looks import SAME_LOOK, Look, nearest_pairs
from wsi_pipeline.learn.splits import SplitSlide


def find_same_slides(
    slides: Sequence[SplitSlide],
    evidence: Mapping[str, SlideEvidence],
    bag_digests: Mapping[str, str],
) -> Audit:
    """Find slides with the same file and region, or with the same features.

    Args:
        slides: Internal and external slides, each with the part it is in.
        evidence: By slide.
        bag_digests: Digest of each internal slide's features.
    """
    identities: dict[str, str | None] = {
        slide_id: found.identity for slide_id, found in evidence.items()
    }
    digests: dict[str, str | None] = dict(bag_digests)
    files = list(_groups(slides, identities.get))
    told = {frozenset(slide.slide_id for slide in group) for group in files}
    features = [
        group
        for group in _groups(slides, digests.get)
        if frozenset(slide.slide_id for slide in group) not in told
    ]
    findings = (
        *(_same(group, "the same file under several names") for group in files),
        *(_same(group, "different files with the same features") for group in features),
    )
    return Audit(findings=findings)


def find_similar_slides(
    slides: Sequence[SplitSlide], evidence: Mapping[str, SlideEvidence]
) -> Audit:
    """Find pairs of patients whose thumbnails look the same, turned or mirrored as they may be."""
    seen = [(slide, evidence[slide.slide_id]) for slide in slides]
    pictured = [(slide, found) for slide, found in seen if found.thumbnail is not None]
    if len({slide.patient_id for slide, _ in pictured}) < 2:
        return Audit()
    looks = [Look.of(found.thumbnail) for _, found in pictured if found.thumbnail is not None]
    pairs, least = nearest_pairs(looks, [slide.patient_id for slide, _ in pictured])
    measured = Measured(
        check="similar_slide",
        name="least distance between two patients' thumbnails",
        value=least,
        threshold=SAME_LOOK,
        cases=len(pictured),
    )
    findings = []
    for first, other, distance in pairs:
        (a, found), (b, also) = pictured[first], pictured[other]
        if found.identity is None or found.identity != also.identity:  # else found by its digest
            findings.append(_similar(a, b, distance))
    return Audit(findings=tuple(findings), measured=(measured,))


def _groups(
    slides: Sequence[SplitSlide], key: Callable[[str], str | None]
) -> Iterator[list[SplitSlide]]:
    same: dict[str, list[SplitSlide]] = defaultdict(list)
    for slide in slides:
        if (value := key(slide.slide_id)) is not None:
            same[value].append(slide)
    yield from (group for group in same.values() if len(group) > 1)


def _same(group: Sequence[SplitSlide], how: str) -> Finding:
    patients = sorted({slide.patient_id for slide in group})
    parts = sorted({slide.split for slide in group})
    return Finding(
        kind="same_slide",
        text=f"slides {named([slide.slide_id for slide in group])} of {_whose(patients)} are {how} "
        f"(in {named(parts)})",
        remedy="keep one",
        blocking=len(patients) > 1 or any(a.split != b.split for a, b in combinations(group, 2)),
        slides=tuple(slide.slide_id for slide in group),
        patients=tuple(patients),
    )


def _similar(a: SplitSlide, b: SplitSlide, distance: float) -> Finding:
    parts = sorted({a.split, b.split})
    return Finding(
        kind="similar_slide",
        text=f"slides {a.slide_id} of patient {a.patient_id} and {b.slide_id} of patient "
        f"{b.patient_id} look the same ({distance:.0%} of 256 hash bits differ; in {named(parts)})",
        remedy="compare their thumbnails; if they are one slide, keep one",
        blocking=True,
        slides=(a.slide_id, b.slide_id),
        patients=(a.patient_id, b.patient_id),
    )


def _whose(patients: Sequence[str]) -> str:
    return f"patient{'s' * (len(patients) > 1)} {named(patients)}"
