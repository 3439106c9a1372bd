"""Patients dealt out to parts so that every class is spread as evenly as whole groups allow.

A group is what must stay together. Drawn by patient, it is a kind of patient (each distinct set of
labels: a patient with tumour and normal slides is never divided), of which some go to each part.
Kept by site, it is a site, or sites that share a patient; a model can recognise the site a slide
comes from, and if sites are divided between training and test, it is tested on that too.

How many of each group go to which part is one small integer programme: every class at least once
in every part, and the counts of classes and of patients as near to the asked shares as possible.

Source of whole sites: Howard et al., "The impact of site-specific digital histology signatures on
deep learning model accuracy and bias", Nat. Commun. 12, 2021.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_array, csr_array, eye_array, kron
from scipy.sparse.csgraph import connected_components

from wsi_pipeline.errors import LearnError

GAP: Final = 0.01  # of the optimum: where the search among sites may end
NODES: Final = 2_000  # of the search tree at most; unlike a time limit, the same on every machine
NUDGE: Final = 1e-5  # by which the seed chooses among equals

Array = NDArray[np.float64]
LabelsOf = Mapping[str, frozenset[str]]  # patient -> the labels of its slides, none is empty


@dataclass(frozen=True, kw_only=True)
class _Programme:
    """Groups to be dealt out: ``counts`` (labels, G) cases of a class in one unit of a group.

    ``sizes`` (G,) units of each group, which parts share; ``patients`` (G,) in one unit. ``cost``
    (G·P,) chooses among equals; ``weights`` (labels + 1,) say what a class, and last all patients,
    weigh if they are off; ``most`` (G, P) bounds what a part may get.
    """

    counts: Array
    patients: Array
    sizes: Array
    cost: Array
    weights: Array
    most: Array
    options: dict[str, Any]

    def solve(self, shares: Array) -> NDArray[np.int64] | None:
        """Return the units of each group in each part, (G, P); None if there is no way."""
        groups, parts = len(self.sizes), len(shares)
        rows = np.vstack([self.counts, self.patients])
        dealt = kron(csr_array(rows), eye_array(parts))  # x[group, part] -> count[row, part]
        targets = np.outer(rows @ self.sizes, shares).ravel()
        slack = eye_array(dealt.shape[0])
        none = csr_array(slack.shape)
        all_of = kron(eye_array(groups), csr_array(np.ones((1, parts))))
        least = np.r_[np.ones(len(self.counts) * parts), np.zeros(parts)]
        solution = milp(
            c=np.r_[self.cost, np.repeat(self.weights, parts)],
            integrality=np.r_[np.ones(groups * parts), np.zeros(dealt.shape[0])],
            bounds=Bounds(0, np.r_[self.most.ravel(), np.full(dealt.shape[0], np.inf)]),
            constraints=[
                LinearConstraint(
                    block_array([[all_of, csr_array((groups, dealt.shape[0]))]]),
                    self.sizes,
                    self.sizes,
                ),
                LinearConstraint(block_array([[dealt, none]]), least, np.inf),
                LinearConstraint(block_array([[dealt, -slack]]), -np.inf, targets),
                LinearConstraint(block_array([[dealt, slack]]), targets, np.inf),
            ],
            options=self.options,  # type: ignore[arg-type]
        )
        if solution.x is None:
            return None
        units: Array = np.rint(solution.x[: groups * parts])
        return units.astype(np.int64).reshape(groups, parts)


def deal_patients(labels_of: LabelsOf, shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign every patient to one part.

    Args:
        labels_of: The labels of each patient.
        shares: The share of each part; they sum to one.
        seed: Draws the patients; how many of each kind a part gets does not depend on it.

    Returns:
        Part of each patient; each label occurs in each part.

    Raises:
        LearnError: Some label cannot be in every part.
    """
    kinds: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for patient in sorted(labels_of):
        kinds[tuple(sorted(labels_of[patient]))].append(patient)
    ordered, parts = sorted(kinds), list(shares)
    labels = sorted({label for kind in ordered for label in kind})
    counts = np.array([[float(label in kind) for kind in ordered] for label in labels])
    sizes = np.array([float(len(kinds[kind])) for kind in ordered])
    _refuse_rare(labels, (counts @ sizes).astype(int), parts, "patient")
    chosen = _Programme(
        counts=counts,
        patients=np.ones(len(ordered)),
        sizes=sizes,
        cost=np.linspace(0, 1e-6, len(ordered) * len(parts)),  # an early part goes first
        weights=np.r_[np.ones(len(labels)), 0.5],  # a class that is off weighs more than a part
        most=np.full((len(ordered), len(parts)), np.inf),
        options={"time_limit": 20.0},
    ).solve(np.array(list(shares.values())))
    if chosen is None:
        raise LearnError(
            f"no split has every class in each of {', '.join(parts)}: patients carry several "
            "labels and are not divided; add patients of the rarest class or ask for fewer parts"
        )
    rng = np.random.default_rng(seed)
    part_of: dict[str, str] = {}
    for kind, row in zip(ordered, chosen, strict=True):
        drawn = rng.permutation(np.array(kinds[kind], dtype=object))
        part_of.update(zip(drawn, np.repeat(np.array(parts), row).tolist(), strict=True))
    return {patient: part_of[patient] for patient in labels_of}


def deal_sites(
    labels_of: LabelsOf, sites_of: Mapping[str, frozenset[str]], shares: Mapping[str, float],
    seed: int,
) -> dict[str, str]:  # fmt: skip
    """Assign every patient to one part so that no site is in two.

    Args:
        labels_of: The labels of each patient.
        sites_of: The sites of each patient; several tie these together.
        shares: The share of each part; they sum to one.
        seed: Draws among (nearly) equally good ways.

    Returns:
        Part of each patient; each label occurs in each part.

    Raises:
        LearnError: Whole sites cannot put each label in each part.
    """
    group_of = _tied(sites_of)
    names, parts = sorted(set(group_of.values())), list(shares)
    labels = sorted({label for found in labels_of.values() for label in found})
    counts = np.zeros((len(labels), len(names)))
    for patient, found in labels_of.items():
        for label in found:
            counts[labels.index(label), names.index(group_of[patient])] += 1
    _refuse_rare(labels, (counts > 0).sum(1), parts, "site")
    size = counts.sum(0)  # a patient counts once for each of its labels
    sites, fractions = len(names), np.array(list(shares.values()))
    chosen = _Programme(
        counts=counts,
        patients=size,
        sizes=np.ones(sites),
        cost=np.random.default_rng(seed).uniform(0, NUDGE, sites * len(parts)),
        weights=1 / np.r_[counts.sum(1), size.sum()],  # how far a class is off, of its size
        most=_renamed_once(size, fractions),
        options={"node_limit": NODES, "mip_rel_gap": GAP},
    ).solve(fractions)
    if chosen is None:
        raise LearnError(
            f"no way of keeping {sites} sites whole puts every class in each of "
            f"{', '.join(parts)}; ask for fewer parts, or split by patient (--split random)"
        )
    part_of = dict(zip(names, (parts[part] for part in chosen.argmax(1)), strict=True))
    return {patient: part_of[group] for patient, group in group_of.items()}


def _tied(sites_of: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """Return the group of each patient: its site, or the sites that patients tie together."""
    sites = sorted({site for found in sites_of.values() for site in found})
    links = np.zeros((len(sites), len(sites)))
    for found in sites_of.values():
        first, *others = (sites.index(site) for site in sorted(found))
        links[first, others] = 1
    _, group = connected_components(csr_array(links), directed=False)
    joined: dict[int, list[str]] = defaultdict(list)
    for site, number in zip(sites, group.tolist(), strict=True):
        joined[number].append(site)
    return {
        patient: " + ".join(joined[int(group[sites.index(min(found))])])
        for patient, found in sorted(sites_of.items())
    }


def _renamed_once(sizes: Array, shares: Array) -> Array:
    """Bound choices to 0…1; among equal folds, keep the largest sites in the first ones.

    Equal folds can be renamed without change: the i-th largest site need only be tried in the
    first i folds, which spares the search every renaming.
    """
    most = np.ones((len(sizes), len(shares)))
    if np.allclose(shares, shares[0]):
        for rank, site in enumerate(np.argsort(-sizes, kind="stable")):
            most[site, rank + 1 :] = 0
    return most


def _refuse_rare(
    labels: Sequence[str], having: NDArray[np.int64], parts: Sequence[str], what: str
) -> None:
    """Refuse classes that fewer patients (or sites) have than there are parts."""
    rare = [
        f"{label!r} has {count} {what}{'s' * (count != 1)}"
        for label, count in zip(labels, having.tolist(), strict=True)
        if count < len(parts)
    ]
    if rare:
        remedy = {
            "patient": "add patients or leave the class out",
            "site": "keeping sites whole takes more of them; ask for fewer folds, or split by "
            "patient (--split random)",
        }[what]
        raise LearnError(
            f"{'; '.join(rare)}; each class needs at least {len(parts)}, one for each of "
            f"{', '.join(parts)}: {remedy}"
        )
