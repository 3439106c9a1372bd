"""One slide under two names: the same file, or a picture that is a copy of another.

Two slides of one patient may be neighbouring sections and look alike, so pictures count only
between patients; the same file counts always.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

from wsi_pipeline.errors import named
from wsi_pipeline.learn.audit.copies import find_copies, read_pictures
from wsi_pipeline.learn.audit.evidence import SlideEvidence
from wsi_pipeline.learn.audit.finding import Audit, Finding, Measured, connected
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
        *(_same(group, evidence, "the same file under several names") for group in files),
        *(_same(group, evidence, "different files with the same features") for group in features),
    )
    return Audit(findings=findings)


def find_similar_slides(
    slides: Sequence[SplitSlide], evidence: Mapping[str, SlideEvidence]
) -> Audit:
    """Find groups of pictures that are copies of one another, however they were changed.

    Raises:
        StoreCorruptError: A picture is unreadable.
    """
    pictured = [slide for slide in slides if evidence[slide.slide_id].thumbnail is not None]
    if len({slide.patient_id for slide in pictured}) < 2:
        return Audit()
    paths = [path for slide in pictured if (path := evidence[slide.slide_id].thumbnail) is not None]
    groups = [
        [pictured[index] for index in members]
        for members in connected(find_copies(read_pictures(paths)))
    ]
    between = [
        members
        for members in groups
        if len({slide.patient_id for slide in members}) > 1
        and not _one_file([evidence[slide.slide_id].identity for slide in members])
    ]
    measured = Measured(
        check="similar_slide",
        name="groups of copies that are of several patients",
        value=float(len(between)),
        threshold=0.0,
        cases=len(pictured),
    )
    findings = tuple(_copies(members, evidence[members[0].slide_id].what) for members in between)
    return Audit(findings=findings, measured=(measured,))


def _one_file(identities: Sequence[str | None]) -> bool:
    """Whether all are one file, which its digest tells already."""
    return identities[0] is not None and len(set(identities)) == 1


def _groups(
    slides: Sequence[SplitSlide], key: Callable[[str], str | None]
) -> Iterator[list[SplitSlide]]:
    same: dict[str, list[SplitSlide]] = defaultdict(list)
    for slide in slides:
        if (value := key(slide.slide_id)) is not None:
            same[value].append(slide)
    yield from (group for group in same.values() if len(group) > 1)


def _same(group: Sequence[SplitSlide], evidence: Mapping[str, SlideEvidence], how: str) -> Finding:
    patients = sorted({slide.patient_id for slide in group})
    parts = sorted({slide.split for slide in group})
    return Finding(
        kind="same_slide",
        text=f"{evidence[group[0].slide_id].what}s {named([slide.slide_id for slide in group])} "
        f"of {_whose(patients)} are {how} (in {named(parts)})",
        remedy="keep one",
        blocking=len(patients) > 1 or any(a.split != b.split for a, b in combinations(group, 2)),
        slides=tuple(slide.slide_id for slide in group),
        patients=tuple(patients),
    )


def _copies(members: Sequence[SplitSlide], what: str) -> Finding:
    patients = sorted({slide.patient_id for slide in members})
    parts = sorted({slide.split for slide in members})
    names = [slide.slide_id for slide in members]
    # an image without a patient of its own is its own patient
    whose = "" if set(patients) == set(names) else f" of {_whose(patients)}"
    return Finding(
        kind="similar_slide",
        text=f"{what}s {named(names)}{whose} are copies of one picture, turned, cropped or "
        f"coloured as they may be (in {named(parts)})",
        remedy="look at them side by side; keep one, or keep them in one part with --groups",
        blocking=True,
        slides=tuple(names),
        patients=tuple(patients),
    )


def _whose(patients: Sequence[str]) -> str:
    return f"patient{'s' * (len(patients) > 1)} {named(patients)}"
