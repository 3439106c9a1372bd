"""Which slides of a query may stand in one cohort, and what that cohort can and cannot show.

In TCGA liver every normal slide is frozen and every diagnostic slide is tumour, so a cohort that
mixes them lets a classifier read the preservation instead of the tissue.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.gdc.records import Preservation

RecipeName = Literal["frozen-only", "diagnostic", "all"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One preservation, so that no label can be told from it, or None for any; two sentences on
    what that means."""

    name: RecipeName
    preservation: Preservation | None
    shows: str
    cannot: str


RECIPES: Final[Mapping[str, Recipe]] = {
    "frozen-only": Recipe(
        name="frozen-only",
        preservation="frozen",
        shows="tumour against normal tissue, and hcc against cca, on frozen sections alone, so "
        "that preservation says nothing about the label",
        cannot="how a model does on paraffin (diagnostic) slides, whose morphology is better kept",
    ),
    "diagnostic": Recipe(
        name="diagnostic",
        preservation="FFPE",
        shows="hcc against cca on paraffin slides, the kind a pathologist reads",
        cannot="anything about normal tissue, of which TCGA liver has no diagnostic slide; adding "
        "the frozen normals would teach the preservation, not the tissue",
    ),
    "all": Recipe(
        name="all",
        preservation=None,
        shows="what slides there are, however they were kept",
        cannot="that a difference between labels is one of the tissue: where preservation goes "
        "with the label, a model can read the freezer; the audit looks for that",
    ),
}


def caveats(recipe: Recipe, slides: Sequence[CohortSlide]) -> list[str]:
    """Say what a cohort of ``slides`` can and cannot show, from what is actually in it."""
    lines = [f"recipe {recipe.name} can show {recipe.shows}"]
    lines.append(f"recipe {recipe.name} cannot show {recipe.cannot}")
    labels = {slide.label for slide in slides if slide.label}
    if labels and "normal" not in labels:
        lines.append("this cohort holds no normal slide: no tumour-against-normal claim")
    lines += _told_by_site(slides)
    return lines


def _told_by_site(slides: Sequence[CohortSlide]) -> list[str]:
    """Name the pairs of labels between which no tissue source site is shared."""
    sites: dict[str, set[str]] = defaultdict(set)
    for slide in slides:
        if slide.label and slide.site:
            sites[slide.label].add(slide.site)
    labels = sorted(sites)
    return [
        f"{first} and {second} share no tissue source site ({len(sites[first])} and "
        f"{len(sites[second])}): a model can tell them by site; no split of this cohort rules it "
        "out, only slides from elsewhere do"
        for at, first in enumerate(labels)
        for second in labels[at + 1 :]
        if not sites[first] & sites[second]
    ]


def summarise(slides: Sequence[CohortSlide]) -> list[str]:
    """Count slides, patients and sites per label and preservation, one line each."""
    groups: dict[tuple[str, str], list[CohortSlide]] = defaultdict(list)
    for slide in slides:
        groups[slide.label or "unlabelled", slide.preservation or "unknown"].append(slide)
    lines = []
    for (label, preservation), members in sorted(groups.items()):
        patients = {slide.patient_id for slide in members}
        sites = {slide.site for slide in members if slide.site}
        lines.append(
            f"{label}, {preservation}: {len(members)} slides of {len(patients)} patients "
            + (f"from {len(sites)} sites" if sites else "from unknown sites")
        )
    return lines
