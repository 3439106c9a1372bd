"""How often the 95 % intervals hold the true value, on cohorts as small as real ones.

    python benchmarks/coverage.py [--cohorts 400] [--resamples 500]

A patient's slides share a difficulty (beta-binomial), so slides are not independent. The true value
is that of the population the patients come from.
"""

import argparse
from itertools import product

import numpy as np

from wsi_pipeline.learn.bootstrap import Bootstrap, estimate
from wsi_pipeline.learn.metrics import count_cases

SPREAD = 0.3  # intra-patient correlation of being right
MEASURES = ("accuracy", "balanced_accuracy")


def draw(rng: np.random.Generator, patients: int, classes: int, accuracy: float):
    """One cohort: targets (n,), probabilities (n, C), owners; patients of all classes, in turn."""
    slides = rng.integers(1, 4, patients)
    concentration = 1 / SPREAD - 1
    skill = rng.beta(accuracy * concentration, (1 - accuracy) * concentration, patients)
    owner = np.repeat(np.arange(patients), slides)
    targets = owner % classes
    right = rng.random(len(owner)) < skill[owner]
    other = (targets + rng.integers(1, classes, len(owner))) % classes
    predicted = np.where(right, targets, other)
    probabilities = np.full((len(owner), classes), 0.2 / (classes - 1))
    probabilities[np.arange(len(owner)), predicted] = 0.8
    return targets, probabilities, [str(k) for k in owner]


def coverage(
    patients: int, classes: int, accuracy: float, cohorts: int, bootstrap: Bootstrap
) -> dict[str, float]:
    """Return the share of cohorts whose interval holds the truth, by measure."""
    names = [f"c{k}" for k in range(classes)]
    hits = dict.fromkeys(MEASURES, 0)
    for number in range(cohorts):
        rng = np.random.default_rng([patients, classes, round(accuracy * 1000), number])
        counts = count_cases(*draw(rng, patients, classes, accuracy))
        found = estimate(counts, names, bootstrap)
        for name in MEASURES:
            low, high = found[name].low, found[name].high
            hits[name] += low is not None and low <= accuracy <= high
    return {name: count / cohorts for name, count in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cohorts", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=500)
    given = parser.parse_args()
    print(
        "| patients | classes | accuracy | "
        + " | ".join(f"{name}, {method}" for method in ("percentile", "bca") for name in MEASURES)
        + " |"
    )
    print("|" + "---|" * (3 + 2 * len(MEASURES)))
    for patients, classes, accuracy in product((20, 40, 60), (2, 3), (0.8, 0.9, 0.95)):
        cells = []
        for method in ("percentile", "bca"):
            bootstrap = Bootstrap(resamples=given.resamples, method=method)
            found = coverage(patients, classes, accuracy, given.cohorts, bootstrap)
            cells += [f"{found[name]:.3f}" for name in MEASURES]
        print(f"| {patients} | {classes} | {accuracy} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
