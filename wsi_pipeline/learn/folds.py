"""Cross-validation and splits that keep sites whole.

Each fold tests its patients once. Its validation patients come out of its own training part, so
those tested on never stop or choose a model (nested). Under site preservation a site is tested as
a whole, by models that saw none of it; validation is drawn by patient from the other sites.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.sites import deal_sites
from wsi_pipeline.learn.splits import (
    Splits,
    SplitSlide,
    assigned,
    check_slides,
    labels_of,
)
from wsi_pipeline.learn.stratify import stratify

FEWEST: Final = 2
FOLD: Final = "fold-{}"  # name of a fold, counted from 1


def fold_patients(
    slides: Sequence[SplitSlide],
    *,
    folds: int,
    val_fraction: float = 0.2,
    seed: int = 0,
    site_of: Mapping[str, str] | None = None,
) -> list[Splits]:
    """Return ``folds`` splits; each patient is in ``test`` exactly once.

    Args:
        slides: Labelled slides; their ``split`` is ignored.
        folds: How many, at least 2.
        val_fraction: Share of the patients that are not tested on; used for early stopping, model
            choice and calibration.
        seed: The same seed gives the same folds, whatever the order of ``slides``.
        site_of: Site of each slide, where no site may be in two folds.

    Raises:
        LearnError: A class has fewer patients (or sites) than folds, or fewer than three.
    """
    if folds < FEWEST:
        raise LearnError(f"{folds} folds asked for; cross-validation needs at least {FEWEST}")
    check_slides(slides)
    names = [FOLD.format(index + 1) for index in range(folds)]
    shares = dict.fromkeys(names, 1 / folds)
    if site_of is None:
        fold_of = stratify(labels_of(slides), shares, seed)
    else:
        fold_of = deal_sites(slides, site_of, shares, seed)
    return [
        _nested(slides, [p for p in fold_of if fold_of[p] == name], val_fraction, seed + index)
        for index, name in enumerate(names)
    ]


def split_sites(
    slides: Sequence[SplitSlide],
    site_of: Mapping[str, str],
    *,
    test_fraction: float = 0.2,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Test on whole sites; split the patients of the others into ``train`` and ``val``.

    Args:
        slides: Labelled slides; their ``split`` is ignored.
        site_of: Site of each slide.
        test_fraction: Share of all patients, as near as whole sites allow.
        val_fraction: Share of the patients that are not tested on.
        seed: Draws among equally good splits, and the validation patients.

    Raises:
        LearnError: Whole sites cannot put every class in both parts.
    """
    check_slides(slides)
    shares = {"train": 1 - test_fraction, "test": test_fraction}
    part_of = deal_sites(slides, site_of, shares, seed)
    return _nested(slides, [p for p in part_of if part_of[p] == "test"], val_fraction, seed)


def join_folds(folds: Sequence[Splits]) -> Splits:
    """Return every slide once, its ``split`` the name of the fold that tests it."""
    order = [slide.slide_id for slide in folds[0]]
    fold_of = {
        slide.slide_id: (FOLD.format(index + 1), slide)
        for index, splits in enumerate(folds)
        for slide in splits
        if slide.split == "test"
    }
    return tuple(
        assigned([slide], {slide.patient_id: name})[0]
        for name, slide in (fold_of[slide_id] for slide_id in order)
    )


def _nested(
    slides: Sequence[SplitSlide], tested: Sequence[str], val_fraction: float, seed: int
) -> Splits:
    """Test on the patients ``tested``; draw validation out of the others."""
    labels, out = labels_of(slides), set(tested)
    rest = {patient: found for patient, found in labels.items() if patient not in out}
    part_of = stratify(rest, {"train": 1 - val_fraction, "val": val_fraction}, seed)
    return assigned(slides, dict.fromkeys(labels, "test") | part_of)
