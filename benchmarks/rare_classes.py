"""AUROC with a rare class: what `train` fits, against logistic regression on the bags' means.

    python benchmarks/rare_classes.py --seeds 5:15      # toys of 7:60 patients, three folds
    python benchmarks/rare_classes.py --tiles ../shared/data/liver_tiles   # bags of real tiles
    python benchmarks/rare_classes.py --table docs/learning.md   # of the rows, between its marks

Toys have 32 latent directions mixed into the features, patients that differ from each other, and a
class that shows in every tile (mean) or in one of five (witness), weakly or plainly. Real bags are
drawn from the tiles of two tissues of one slide: a bag of the rare kind holds some of the other
kind's tiles, so that it is hard. Probabilities of all folds are pooled, as `train --folds` does.
Rules were set on seeds 0 to 4, docs/learning.md tells what others came to. Differences to the
regression are paired by seed, with 95 % intervals (Student's t) and how many seeds there are.
Beside the AUROC stand the calibration error and, of sets that shall hold the right class for 90 %
of patients, how often they do and how large they are.
"""

import argparse
import csv
import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
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
    describe_sets,
    fit_aggregator,
    fit_temperature,
    fold_patients,
)
from wsi_pipeline.learn.metrics import count_cases, measure

SIZES = (7, 60)  # patients of the rare class and of the other
CLASSES = ("a", "b")
LEVELS = (("mean", 1.0), ("mean", 1.5), ("mean", 2.5), ("witness", 4.0), ("witness", 6.0))
LATENT, WIDTH = 32, 256
ALLOWED = 0.02  # of AUROC below the regression
LOGISTIC = "logistic"
BEGIN, END = "<!-- rare classes -->", "<!-- end of rare classes -->"
SAID = {
    "mean": "toy, a class shows in all tiles",
    "witness": "toy, a class shows in a fifth of the tiles",
    "real": "real tiles, this share of them of the other tissue",
}

Predicted = dict[str, np.ndarray]  # slide -> probabilities (2,)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a model came to on a cohort drawn with a seed; the regression has no sets."""

    cohort: str
    seed: int
    model: str
    auroc: float
    ece: float
    coverage: float | None
    size: float | None


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

    sample_kept = sample


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


def judge(bags: Bags, cohort: str, models: list[str], seed: int) -> Iterator[Row]:
    """Yield what each way comes to, pooled over three folds."""
    slides = [SplitSlide(slide_id=name, patient_id=name, label=name[0], cohort="", split="")
              for name in bags.features]  # fmt: skip
    folds = fold_patients(slides, folds=3, val_fraction=0.2, seed=seed)
    targets = np.array([CLASSES.index(slide.label) for slide in slides])
    for name in models:
        pooled: Predicted = {}
        sets = []
        for fold in folds:
            found = logistic(bags, fold) if name == LOGISTIC else fitted(bags, fold, name, seed)
            pooled |= {s.slide_id: found[s.slide_id] for s in fold if s.split == "test"}
            if name != LOGISTIC:
                sets += [held for held in describe_sets({name: found}, fold, CLASSES)
                         if (held["level"], held["split"]) == ("patient", "test")]  # fmt: skip
        scores = np.stack([pooled[slide.slide_id] for slide in slides])
        counts = count_cases(targets, scores, [slide.slide_id for slide in slides])
        error = measure(counts, np.ones((1, len(slides))), CLASSES, ["ece"])["ece"]
        patients = [held["patients"] for held in sets]
        yield Row(
            cohort=cohort, seed=seed, model=name, ece=float(error[0]),
            auroc=float(roc_auc_score(targets == 0, scores[:, 0])),
            coverage=float(np.average([held["coverage"] for held in sets], weights=patients))
            if sets else None,
            size=float(np.average([held["size"] for held in sets], weights=patients))
            if sets else None,
        )  # fmt: skip


def logistic(bags: Bags, fold) -> Predicted:
    """Fit on all that is not tested, as the models are in the end; score the tested."""
    means = np.stack([bags.features[slide.slide_id].mean(0) for slide in fold])
    tested = np.array([slide.split == "test" for slide in fold])
    targets = np.array([slide.label == "a" for slide in fold])
    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
    model.fit(means[~tested], targets[~tested])
    names = [slide.slide_id for slide in fold if slide.split == "test"]
    return dict(zip(names, model.predict_proba(means[tested])[:, ::-1], strict=True))


def fitted(bags: Bags, fold, name: str, seed: int) -> Predicted:
    """Do what `train` does: a model for the temperature, and one of all that is not tested.

    Validation slides are scored by the first, which calibrates sets, tested ones by the second.
    """
    settings = FitSettings(device="cpu", seed=seed)
    first = trained(bags, fold, name, settings)
    val = [slide for slide in fold if slide.split == "val"]
    seen = np.stack([bag_scores(first, bags.features[s.slide_id])[0] for s in val])
    temperature = fit_temperature(seen, np.array([CLASSES.index(s.label) for s in val]))
    everyone = tuple(replace(s, split="train") if s.split == "val" else s for s in fold)
    last = trained(bags, everyone, name, settings)
    test = [slide for slide in fold if slide.split == "test"]
    found = [bag_scores(last, bags.features[slide.slide_id])[0] for slide in test]
    scores = apply_temperature(np.concatenate([seen, np.stack(found)]), temperature)
    return {slide.slide_id: row for slide, row in zip((*val, *test), scores, strict=True)}


def trained(bags: Bags, fold, name: str, settings: FitSettings):
    model, training = fit_aggregator(ModelSpec(name=name), bags, fold, CLASSES, settings)
    for _ in training:
        pass
    return model


def told(rows: Iterable[Row]) -> Iterator[str]:
    """Yield a Markdown table, a row for each cohort and model, means over the seeds."""
    found: dict[str, dict[str, dict[int, Row]]] = {}
    for row in rows:
        found.setdefault(row.cohort, {}).setdefault(row.model, {})[row.seed] = row
    yield (
        "| Bags | model | seeds | AUROC | less the regression's | no worse by more than "
        f"{ALLOWED} | ECE | sets hold | set size |"
    )
    yield "|---" * 9 + "|"
    for cohort, of_models in sorted(found.items()):
        kind, strength = cohort.split()
        bags = f"{SAID[kind]}, {strength}"
        for model, of_seeds in of_models.items():
            yield f"| {bags} | {model} | {_cells(of_seeds, of_models[LOGISTIC])} |"
            bags = ""


def _cells(of_seeds: dict[int, Row], regression: dict[int, Row]) -> str:
    seeds = sorted(of_seeds)
    rows = [of_seeds[seed] for seed in seeds]
    auroc, error = np.mean([row.auroc for row in rows]), np.mean([row.ece for row in rows])
    told = [_seeds(seeds), f"{auroc:.3f}"]
    if rows[0].model == LOGISTIC:
        return " | ".join([*told, "", "", f"{error:.3f}", "", ""])
    gained = np.array([row.auroc - regression[row.seed].auroc for row in rows])
    half = np.inf
    if len(rows) > 1:
        half = stats.t.ppf(0.975, len(rows) - 1) * gained.std(ddof=1) / np.sqrt(len(rows))
    told += [f"{gained.mean():+.3f}" + (f" ± {half:.3f}" if len(rows) > 1 else "")]
    told += [_holds(float(gained.mean()), float(half)), f"{error:.3f}"]
    told += [f"{np.mean([row.coverage for row in rows]):.1%}"]
    told += [f"{np.mean([row.size for row in rows]):.2f}"]
    return " | ".join(told)


def _holds(gained: float, half: float) -> str:
    if gained - half >= -ALLOWED:
        return "shown"
    if gained + half < -ALLOWED:
        return "no, shown"
    return "in the mean" if gained >= -ALLOWED else "not in the mean"


def _seeds(seeds: list[int]) -> str:
    """Say which, where they follow one another from the first to the last."""
    whole = seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if whole and len(seeds) > 1 else ", ".join(map(str, seeds))


def write_table(page: Path, rows: Iterable[Row]) -> None:
    """Put the table between its marks on a page."""
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(told(rows)) + f"\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", default="5:15")
    parser.add_argument("--models", nargs="+", default=["abmil", "mean", "clam_sb", "dsmil"])
    parser.add_argument("--levels", nargs="+", type=int, default=list(range(len(LEVELS))))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.2, 0.4])
    parser.add_argument("--tiles", type=Path, help="Folder with a folder of tiles for each tissue.")
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".csv"),
                        help="CSV of what was found; what is in it is not done again.")  # fmt: skip
    parser.add_argument("--table", type=Path, help="Write their table into this page, no more.")
    given = parser.parse_args()
    if given.table is not None:
        write_table(given.table, read(given.rows))
        return
    first, end = (int(word) for word in given.seeds.split(":"))
    tissues = None if given.tiles is None else real_features(given.tiles)
    settings = [("real", share) for share in given.shares] if tissues else [
        LEVELS[index] for index in given.levels
    ]  # fmt: skip
    if not given.rows.exists():
        given.rows.write_text(",".join(Row.__annotations__) + "\n")
    began = time.process_time()
    for seed, (kind, strength) in itertools.product(range(first, end), settings):
        cohort = f"{kind} {strength}"
        done = {row.model for row in read(given.rows) if (row.cohort, row.seed) == (cohort, seed)}
        wanted = [name for name in (LOGISTIC, *given.models) if name not in done]
        if not wanted:
            continue
        bags = drawn(kind, strength, seed) if tissues is None else (
            real_bags(tissues, strength, seed)
        )  # fmt: skip
        for row in judge(bags, cohort, wanted, seed):
            cells = ("" if value is None else f"{value:.6g}" if isinstance(value, float)
                     else str(value) for value in asdict(row).values())  # fmt: skip
            with given.rows.open("a") as file:
                file.write(",".join(cells) + "\n")
    print("\n".join(told(read(given.rows))))
    print(f"{time.process_time() - began:.0f} s of CPU")


def read(path: Path) -> list[Row]:
    with path.open() as file:
        return [
            Row(
                cohort=row["cohort"], seed=int(row["seed"]), model=row["model"],
                auroc=float(row["auroc"]), ece=float(row["ece"]),
                coverage=float(row["coverage"]) if row["coverage"] else None,
                size=float(row["size"]) if row["size"] else None,
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


if __name__ == "__main__":
    main()
