"""AUROC with a rare class: what `train` fits, against logistic regression on the bags' means.

    python benchmarks/rare_classes.py --seeds 5:15      # toys of 7:60 patients, three folds
    python benchmarks/rare_classes.py --tiles ../shared/data/liver_tiles   # bags of real tiles

Toys have 32 latent directions mixed into the features, patients that differ from each other, and a
class that shows in every tile (mean) or in one of five (witness), weakly or plainly. Real bags are
drawn from the tiles of two tissues of one slide: a bag of the rare kind holds some of the other
kind's tiles, so that it is hard. Probabilities of all folds are pooled, as `train --folds` does.
Rules were set on seeds 0 to 4, docs/learning.md tells what others came to. Differences to the
regression are paired by seed, with 95 % intervals (Student's t) and how many seeds there are.
"""

import argparse
import csv
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsi_pipeline.features import load_encoder
from wsi_pipeline.learn import (
    FitSettings,
    ModelSpec,
    SplitSlide,
    apply_temperature,
    bag_scores,
    fit_aggregator,
    fit_temperature,
    fold_patients,
)

SIZES = (7, 60)  # patients of the rare class and of the other
CLASSES = ("a", "b")
LEVELS = (("mean", 1.0), ("mean", 1.5), ("mean", 2.5), ("witness", 4.0), ("witness", 6.0))
LATENT, WIDTH = 32, 256


class Bags:
    """Features in memory, in the place of a folder of stores."""

    folder = Path("drawn")

    def __init__(self, features: dict[str, np.ndarray]) -> None:
        self.features = features

    def bag(self, slide_id: str):
        class Found:
            features = self.features[slide_id]

        return Found

    def tile_count(self, slide_id: str) -> int:
        return len(self.features[slide_id])

    def sample(self, slide_id: str, count: int, rng: np.random.Generator) -> np.ndarray:
        rows = self.features[slide_id]
        return rows[np.sort(rng.permutation(len(rows))[:count])]


def drawn(kind: str, signal: float, seed: int) -> Bags:
    """Draw a cohort."""
    rng = np.random.default_rng([seed, kind == "witness"])
    spread = np.linspace(1, 0.2, LATENT)[:, None] * 2 / np.sqrt(LATENT)
    mixing = rng.standard_normal((LATENT, WIDTH)) * spread
    towards = np.zeros(LATENT)
    towards[rng.integers(0, LATENT // 2, 2)] = signal / np.sqrt(2)
    features = {}
    for label, patients in zip(CLASSES, SIZES, strict=True):
        for patient in range(patients):
            tiles = int(rng.integers(40, 121))
            latent = rng.standard_normal((tiles, LATENT)) + 0.6 * rng.standard_normal(LATENT)
            if label == "a":
                latent[rng.random(tiles) < (0.2 if kind == "witness" else 1)] += towards
            rows = latent @ mixing + 0.3 * rng.standard_normal((tiles, WIDTH))
            features[f"{label}{patient}"] = np.maximum(rows, -0.5).astype(np.float32)
    return Bags(features)


def real_features(folder: Path) -> list[np.ndarray]:
    """Return the features of each tissue's tiles, without colour, which alone tells them."""
    encoder = load_encoder("tf_efficientnet_lite0", "package", "cpu")
    found = []
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        greys = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(float)
                 for path in sorted(kind.rglob("*.[pj][np]g"))]  # fmt: skip
        alike = [((g - g.mean()) / g.std() * 35 + 170).clip(0, 255).astype(np.uint8) for g in greys]
        pixels = np.stack([np.repeat(grey[..., None], 3, axis=2) for grey in alike])
        parts = [encoder.encode(pixels[i : i + 32]) for i in range(0, len(pixels), 32)]
        found.append(np.concatenate(parts).astype(np.float32))
    return found


def real_bags(tissues: list[np.ndarray], share: float, seed: int) -> Bags:
    """Draw bags of the second tissue; those of class a hold a share of the first one's tiles."""
    rng = np.random.default_rng(seed)
    rare, common = tissues
    features = {}
    for label, patients in zip(CLASSES, SIZES, strict=True):
        for patient in range(patients):
            rows = common[rng.permutation(len(common))[: rng.integers(15, 40)]].copy()
            if label == "a":
                few = max(1, round(share * len(rows)))
                rows[:few] = rare[rng.permutation(len(rare))[:few]]
            # stain and scanner: what is the patient's and not the class's
            own = 0.5 * rng.standard_normal(rows.shape[1]) * common.std(0)
            features[f"{label}{patient}"] = (rows + own).astype(np.float32)
    return Bags(features)


def judge(bags: Bags, models: list[str], seed: int) -> Iterator[tuple[str, float]]:
    """Yield the pooled AUROC of each way, over three folds."""
    slides = [SplitSlide(slide_id=name, patient_id=name, label=name[0], cohort="", split="")
              for name in bags.features]  # fmt: skip
    folds = fold_patients(slides, folds=3, val_fraction=0.2, seed=seed)
    targets = np.array([slide.label == "a" for slide in slides])
    for name in models:
        scores = np.zeros(len(slides))
        for fold in folds:
            tested = np.array([slide.split == "test" for slide in fold])
            found = logistic(bags, fold) if name == "logistic" else fitted(bags, fold, name, seed)
            scores[tested] = found
        yield name, float(roc_auc_score(targets, scores))


def logistic(bags: Bags, fold) -> np.ndarray:
    """Fit on all that is not tested, as the models are in the end."""
    means = np.stack([bags.features[slide.slide_id].mean(0) for slide in fold])
    tested = np.array([slide.split == "test" for slide in fold])
    targets = np.array([slide.label == "a" for slide in fold])
    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
    model.fit(means[~tested], targets[~tested])
    return model.predict_proba(means[tested])[:, 1]


def fitted(bags: Bags, fold, name: str, seed: int) -> np.ndarray:
    """Do what `train` does: a model for the temperature, and one of all that is not tested."""
    settings = FitSettings(device="cpu", seed=seed)
    first = trained(bags, fold, name, settings)
    val = [slide for slide in fold if slide.split == "val"]
    seen = np.stack([bag_scores(first, bags.features[s.slide_id])[0] for s in val])
    temperature = fit_temperature(seen, np.array([CLASSES.index(s.label) for s in val]))
    everyone = tuple(replace(s, split="train") if s.split == "val" else s for s in fold)
    last = trained(bags, everyone, name, settings)
    tested = [bag_scores(last, bags.features[s.slide_id])[0] for s in fold if s.split == "test"]
    return apply_temperature(np.stack(tested), temperature)[:, 0]


def trained(bags: Bags, fold, name: str, settings: FitSettings):
    model, training = fit_aggregator(ModelSpec(name=name), bags, fold, CLASSES, settings)
    for _ in training:
        pass
    return model


def told(rows: list[dict[str, str]]) -> Iterator[str]:
    """Yield a Markdown table: mean AUROC, and differences to the regression with t intervals."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        of_model = found.setdefault(row["cohort"], {}).setdefault(row["model"], {})
        of_model[row["seed"]] = float(row["auroc"])
    models = list(dict.fromkeys(row["model"] for row in rows if row["model"] != "logistic"))
    yield f"| Bags | logistic | {' | '.join(models)} |"
    yield "|---" * (len(models) + 2) + "|"
    for cohort, values in found.items():
        line = f"| {cohort} | {np.mean(list(values['logistic'].values())):.3f}"
        for model in models:
            seeds = sorted(values.get(model, {}))
            gained = np.array([values[model][s] - values["logistic"][s] for s in seeds])
            if len(seeds) < 2:
                line += " | "
                continue
            half = stats.t.ppf(0.975, len(seeds) - 1) * gained.std(ddof=1) / np.sqrt(len(seeds))
            mean = np.mean([values[model][s] for s in seeds])
            line += f" | {mean:.3f} ({gained.mean():+.3f} ± {half:.3f}; {len(seeds)})"
        yield line + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", default="5:15")
    parser.add_argument("--models", nargs="+", default=["abmil", "mean", "clam_sb", "dsmil"])
    parser.add_argument("--levels", nargs="+", type=int, default=list(range(len(LEVELS))))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.2, 0.4])
    parser.add_argument("--tiles", type=Path, help="Folder with a folder of tiles for each tissue.")
    parser.add_argument("--rows", type=Path, default=Path("rare_classes.csv"),
                        help="CSV of what was found; what is in it is not done again.")  # fmt: skip
    given = parser.parse_args()
    first, end = (int(word) for word in given.seeds.split(":"))
    tissues = None if given.tiles is None else real_features(given.tiles)
    settings = [("real", share) for share in given.shares] if tissues else [
        LEVELS[index] for index in given.levels
    ]  # fmt: skip
    if not given.rows.exists():
        given.rows.write_text("cohort,seed,model,auroc\n")
    began = time.process_time()
    for seed, (kind, strength) in itertools.product(range(first, end), settings):
        cohort = f"{kind} {strength}"
        done = {row["model"] for row in read(given.rows)
                if (row["cohort"], row["seed"]) == (cohort, str(seed))}  # fmt: skip
        wanted = [name for name in ("logistic", *given.models) if name not in done]
        bags = drawn(kind, strength, seed) if tissues is None else (
            real_bags(tissues, strength, seed)
        )  # fmt: skip
        for name, value in judge(bags, wanted, seed):
            with given.rows.open("a") as file:
                file.write(f"{cohort},{seed},{name},{value:.6f}\n")
    print("\n".join(told(read(given.rows))))
    print(f"{time.process_time() - began:.0f} s of CPU")


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
