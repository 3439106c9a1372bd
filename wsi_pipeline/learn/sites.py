"""Whole sites dealt out to parts, each class spread as evenly as whole sites allow.

A model can recognise the site a slide comes from; if sites are divided between training and test,
it is tested on that too. An integer programme over which site goes where minimises how far every
class's number of patients in each part is from its share.

Source of the idea: Howard et al., "The impact of site-specific digital histology signatures on
deep learning model accuracy and bias", Nat. Commun. 12, 2021.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_array, csr_array, eye_array, kron
from scipy.sparse.csgraph import connected_components

from wsi_pipeline.errors import LearnError, named
from wsi_pipeline.learn.splits import SplitSlide

GAP: Final = 0.01  # of the optimum: where the search may end
NODES: Final = 2_000  # of the search tree at most; unlike a time limit, the same on every machine
NUDGE: Final = 1e-5  # by which the seed chooses among equals


def deal_sites(
    slides: Sequence[SplitSlide],
    site_of: Mapping[str, str],
    shares: Mapping[str, float],
    seed: int,
) -> dict[str, str]:
    """Assign every patient to one part so that no site is in two.

    Args:
        slides: Labelled slides.
        site_of: Site of each slide; a patient with slides of several sites ties these together.
        shares: The share of each part; they sum to one.
        seed: Draws among (nearly) equally good ways.

    Returns:
        Part of each patient; each label occurs in each part.

    Raises:
        LearnError: A slide has no site, or whole sites cannot put each label in each part.
    """
    groups = _tied(slides, site_of)
    labels = sorted({slide.label for slide in slides})
    names = sorted(set(groups.values()))
    counts = np.zeros((len(labels), len(names)))
    for label, patient in sorted({(slide.label, slide.patient_id) for slide in slides}):
        counts[labels.index(label), names.index(groups[patient])] += 1
    _refuse_rare(labels, counts, names, list(shares))
    chosen = _solve(counts, np.array(list(shares.values())), seed)
    if chosen is None:
        raise LearnError(
            f"no way of keeping {len(names)} sites whole puts every class in each of "
            f"{', '.join(shares)}; ask for fewer parts, or split by patient (--split random)"
        )
    part_of = dict(zip(names, (list(shares)[part] for part in chosen), strict=True))
    return {patient: part_of[group] for patient, group in groups.items()}


def _tied(slides: Sequence[SplitSlide], site_of: Mapping[str, str]) -> dict[str, str]:
    """Return the group of each patient: its site, or the sites that patients tie together."""
    homeless = sorted({s.slide_id for s in slides if not site_of.get(s.slide_id)})
    if homeless:
        raise LearnError(
            f"{len(homeless)} labelled slides have no site ({named(homeless)}); fill the "
            "cohort table's site column in, or split by patient (--split random)"
        )
    sites = sorted({site_of[slide.slide_id] for slide in slides})
    patients: dict[str, set[str]] = defaultdict(set)
    for slide in slides:
        patients[slide.patient_id].add(site_of[slide.slide_id])
    links = np.zeros((len(sites), len(sites)))
    for found in patients.values():
        first, *others = (sites.index(site) for site in sorted(found))
        links[first, others] = 1
    _, group = connected_components(csr_array(links), directed=False)
    joined: dict[int, list[str]] = defaultdict(list)
    for site, number in zip(sites, group.tolist(), strict=True):
        joined[number].append(site)
    return {
        patient: " + ".join(joined[int(group[sites.index(min(found))])])
        for patient, found in sorted(patients.items())
    }


def _solve(counts: NDArray[np.float64], shares: NDArray[np.float64], seed: int) -> list[int] | None:
    """Return the part of each site; None if there is no way.

    Args:
        counts: (labels, sites) patients.
        shares: (parts,).
        seed: Of the nudge.
    """
    sites, parts = counts.shape[1], len(shares)
    # A last row counts all patients; how far a class is off is relative to its size.
    rows = np.vstack([counts, counts.sum(0)])
    totals = rows.sum(1)
    here = kron(csr_array(rows), eye_array(parts))  # x[site, part] → count[row, part]
    targets = np.outer(totals, shares).ravel()
    slack = eye_array(here.shape[0])
    least = np.r_[np.ones(len(counts) * parts), np.zeros(parts)]
    cost = np.r_[
        np.random.default_rng(seed).uniform(0, NUDGE, sites * parts),
        np.repeat(1 / totals, parts),
    ]
    once = kron(eye_array(sites), csr_array(np.ones((1, parts))))
    empty = csr_array((sites, here.shape[0]))
    solution = milp(
        c=cost,
        integrality=np.r_[np.ones(sites * parts), np.zeros(here.shape[0])],
        bounds=_bounds(rows[-1], shares, here.shape[0]),
        constraints=[
            LinearConstraint(block_array([[once, empty]]), 1, 1),
            LinearConstraint(block_array([[here, 0 * slack]]), least, np.inf),
            LinearConstraint(block_array([[here, -slack]]), -np.inf, targets),
            LinearConstraint(block_array([[here, slack]]), targets, np.inf),
        ],
        options={"node_limit": NODES, "mip_rel_gap": GAP},
    )
    if solution.x is None:
        return None
    chosen: list[int] = solution.x[: sites * parts].reshape(sites, parts).argmax(1).tolist()
    return chosen


def _bounds(sizes: NDArray[np.float64], shares: NDArray[np.float64], slacks: int) -> Bounds:
    """Bound site choices to 0…1; among equal folds, keep the largest sites in the first ones.

    Equal folds can be renamed without change: the i-th largest site need only be tried in the
    first i folds, which spares the search every renaming.
    """
    most = np.ones((len(sizes), len(shares)))
    if np.allclose(shares, shares[0]):
        for rank, site in enumerate(np.argsort(-sizes, kind="stable")):
            most[site, rank + 1 :] = 0
    upper = np.r_[most.ravel(), np.full(slacks, np.inf)]
    return Bounds(np.zeros(len(upper)), upper)


def _refuse_rare(
    labels: Sequence[str],
    counts: NDArray[np.float64],
    sites: Sequence[str],
    parts: Sequence[str],
) -> None:
    rare = Counter({label: int((row > 0).sum()) for label, row in zip(labels, counts, strict=True)})
    for label, row in zip(labels, counts, strict=True):
        if rare[label] < len(parts):
            having = [site for site, count in zip(sites, row, strict=True) if count]
            raise LearnError(
                f"class {label!r} comes from {rare[label]} site{'s' * (rare[label] != 1)} "
                f"({', '.join(having)}); keeping sites whole, {len(parts)} parts need at least "
                f"{len(parts)}: add sites, ask for fewer folds, or split by patient "
                "(--split random)"
            )
