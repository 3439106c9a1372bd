"""How often the 95 % intervals hold the true value, on cohorts as small and uneven as real ones.

    python benchmarks/coverage.py [--cohorts 500]

Two tables: one case a patient, and patients with one to four slides that share a difficulty
(beta-binomial). A case is right with its class's sensitivity; the probability of the predicted
class is uniform above all others. True values are those of the population that is drawn from.
"""

import argparse
from dataclasses import dataclass
from itertools import product

import numpy as np

from wsi_pipeline.learn.bootstrap import Bootstrap, estimate
from wsi_pipeline.learn.metrics import count_cases, measure

SIZES = ((7, 60), (4, 4, 4), (20, 60), (14, 14), (10, 10))
SENSITIVITIES = ((0.8, 0.95), (0.95, 0.95), (0.9, 0.9))  # of the first class, of the others
MEASURES = (
    "accuracy",
    "balanced_accuracy",
    "sensitivity/c0",
    "sensitivity/c1",
    "auroc/c0",
    "auroc",
    "macro_f1",
    "ap",
)
ALIKE = 0.3  # correlation of two slides of a patient being right
MOST_SLIDES = 4
POPULATION = 20_000  # cases a class, from which true values are measured


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Patients of each class, the sensitivity of each, and whether patients have several slides."""

    sizes: tuple[int, ...]
    sensitivities: tuple[float, ...]
    clustered: bool = False

    @property
    def classes(self) -> list[str]:
        return [f"c{index}" for index in range(len(self.sizes))]

    def cohort(self, rng: np.random.Generator, times: int = 1):
        """Draw targets (n,), probabilities (n, C) and owners (n); ``times`` as many patients."""
        of_patient = np.repeat(np.arange(len(self.sizes)), np.array(self.sizes) * times)
        skill = np.array(self.sensitivities)[of_patient]
        if self.clustered:
            skill = rng.beta(skill * (1 / ALIKE - 1), (1 - skill) * (1 / ALIKE - 1))
        slides = rng.integers(1, MOST_SLIDES + 1 if self.clustered else 2, len(of_patient))
        owner = np.repeat(np.arange(len(of_patient)), slides)
        targets = of_patient[owner]
        right = rng.random(len(owner)) < skill[owner]
        count = len(self.sizes)
        other = (targets + rng.integers(1, count, len(owner))) % count
        predicted = np.where(right, targets, other)
        probabilities = rng.dirichlet(np.ones(count), len(owner))
        best = probabilities.argmax(1)
        rows = np.arange(len(owner))
        most, there = probabilities[rows, best].copy(), probabilities[rows, predicted].copy()
        probabilities[rows, best], probabilities[rows, predicted] = there, most
        return targets, probabilities, [str(k) for k in owner]

    def truth(self) -> dict[str, float]:
        """Return the measures of the population."""
        times = POPULATION // max(self.sizes)
        counts = count_cases(*self.cohort(np.random.default_rng(0), times))
        values = measure(counts, np.ones((1, counts.patients)), self.classes)
        found = {name: float(values[name][0]) for name in MEASURES}
        shares = np.array(self.sizes) / sum(self.sizes)
        sensitivities = dict(zip(self.classes, self.sensitivities, strict=True))
        exact = {f"sensitivity/{name}": value for name, value in sensitivities.items()}
        exact["accuracy"] = float(shares @ self.sensitivities)
        exact["balanced_accuracy"] = float(np.mean(self.sensitivities))
        return found | exact


def coverage(setting: Setting, cohorts: int, bootstrap: Bootstrap) -> dict[str, float]:
    """Return the share of cohorts whose interval holds the truth, by measure."""
    truth = setting.truth()
    hits = dict.fromkeys(MEASURES, 0)
    for number in range(cohorts):
        rng = np.random.default_rng([*setting.sizes, *(int(1e3 * s) for s in setting.sensitivities),
                                     number])  # fmt: skip
        found = estimate(count_cases(*setting.cohort(rng)), setting.classes, bootstrap)
        for name in MEASURES:
            low, high = found[name].low, found[name].high
            hits[name] += low is not None and low <= truth[name] <= high
    return {name: count / cohorts for name, count in hits.items()}


def settings(clustered: bool) -> list[Setting]:
    """Return all of one table."""
    return [
        Setting(
            sizes=sizes,
            sensitivities=(first, *(other,) * (len(sizes) - 1)),
            clustered=clustered,
        )
        for sizes, (first, other) in product(SIZES, SENSITIVITIES)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cohorts", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=400)
    given = parser.parse_args()
    for clustered in (False, True):
        print(f"\n{'One to four dependent slides' if clustered else 'One case'} a patient\n")
        print(f"| patients | sensitivities | {' | '.join(MEASURES)} |")
        print("|" + "---|" * (2 + len(MEASURES)))
        for setting in settings(clustered):
            found = coverage(setting, given.cohorts, Bootstrap(resamples=given.resamples))
            print(
                f"| {':'.join(map(str, setting.sizes))} | "
                f"{' / '.join(map(str, setting.sensitivities[:2]))} | "
                f"{' | '.join(f'{100 * found[name]:.1f}' for name in MEASURES)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
