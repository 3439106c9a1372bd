"""Patients dealt out to parts so that every class is spread as evenly as whole patients allow.

A patient may carry several labels (tumour and normal slides) and is never divided. How many
patients of each kind (each distinct set of labels) go to which part is a small integer programme:
every class at least once in every part, and the counts of classes and of patients as near to the
asked fractions as possible. Which patients they are is then drawn with the seed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp

from wsi_pipeline.errors import LearnError

Kind = tuple[str, ...]  # the sorted labels that a patient carries


def stratify(
    labels_of: Mapping[str, frozenset[str]], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Assign every patient to one part.

    Args:
        labels_of: The labels of each patient; none is empty.
        fractions: The share of each part; they sum to one.
        seed: Draws the patients; the counts do not depend on it.

    Returns:
        Part of each patient; each label occurs in each part.

    Raises:
        LearnError: Some label cannot be in every part.
    """
    kinds: dict[Kind, list[str]] = defaultdict(list)
    for patient in sorted(labels_of):
        kinds[tuple(sorted(labels_of[patient]))].append(patient)
    ordered = sorted(kinds)
    counts = _counts(ordered, [len(kinds[kind]) for kind in ordered], fractions)
    rng = np.random.default_rng(seed)
    part_of: dict[str, str] = {}
    for kind, row in zip(ordered, counts, strict=True):
        drawn = rng.permutation(np.array(kinds[kind], dtype=object))
        parts = [part for part, count in zip(fractions, row, strict=True) for _ in range(count)]
        part_of.update(zip(drawn, parts, strict=True))
    return {patient: part_of[patient] for patient in labels_of}


def _counts(
    kinds: Sequence[Kind], sizes: Sequence[int], fractions: Mapping[str, float]
) -> NDArray[np.int64]:
    """Return (kinds, parts) int64: how many patients of each kind go to each part."""
    labels = sorted({label for kind in kinds for label in kind})
    _refuse_rare(labels, kinds, sizes, list(fractions))
    shares = np.array(list(fractions.values()))
    parts, rows = len(shares), len(labels) + 1
    # One row a label, and a last row for all patients.
    member = np.array([[label in kind for kind in kinds] for label in labels] + [[1] * len(kinds)])
    totals = member @ np.array(sizes)
    counted = np.kron(member, np.eye(parts))  # (rows·parts, kinds·parts) @ counts
    targets = np.outer(totals, shares).ravel()
    slack = np.eye(rows * parts)
    nothing = np.zeros_like(slack)
    least = np.r_[np.ones(len(labels) * parts), np.zeros(parts)]
    dealt = np.kron(np.eye(len(kinds)), np.ones(parts))
    solution = milp(
        # A class that is off weighs more than a part that is off; an early part goes first.
        c=np.r_[np.linspace(0, 1e-6, counted.shape[1]), np.ones((rows - 1) * parts), [0.5] * parts],
        integrality=np.r_[np.ones(counted.shape[1]), np.zeros(rows * parts)],
        constraints=[
            LinearConstraint(np.c_[dealt, np.zeros((len(kinds), rows * parts))], sizes, sizes),
            LinearConstraint(np.c_[counted, nothing], least, np.inf),
            LinearConstraint(np.c_[counted, -slack], -np.inf, targets),
            LinearConstraint(np.c_[counted, slack], targets, np.inf),
        ],
        options={"time_limit": 20.0},
    )
    if solution.x is None:
        raise LearnError(
            f"no split has every class in each of {', '.join(fractions)}: patients carry several "
            "labels and are not divided; add patients of the rarest class or ask for fewer parts"
        )
    counts: NDArray[np.float64] = np.rint(solution.x[: counted.shape[1]])
    return counts.astype(np.int64).reshape(len(kinds), parts)


def _refuse_rare(
    labels: Sequence[str], kinds: Sequence[Kind], sizes: Sequence[int], parts: Sequence[str]
) -> None:
    rare = []
    for label in labels:
        patients = sum(size for kind, size in zip(kinds, sizes, strict=True) if label in kind)
        if patients < len(parts):
            rare.append(f"{label!r} has {patients} patient{'s' * (patients != 1)}")
    if rare:
        raise LearnError(
            f"{'; '.join(rare)}; each class needs at least {len(parts)}, one for each of "
            f"{', '.join(parts)}: add patients or leave the class out"
        )
