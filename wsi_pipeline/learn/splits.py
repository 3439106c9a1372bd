"""Who is trained on, who decides when to stop, who is tested on: always whole patients.

Under cross-validation each fold tests its patients once. Its validation patients come out of its
own training part, so those tested on never stop or choose a model (nested). Where sites are kept
whole, a site is tested by models that saw none of it; validation is drawn by patient from the
other sites.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from wsi_pipeline.atomic import write_text
from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import LearnError, named
from wsi_pipeline.learn.deal import deal_patients, deal_sites
from wsi_pipeline.learn.settings import SplitSettings
from wsi_pipeline.tables import read_table, to_csv

INTERNAL: Final = ("train", "val", "test")
FEWEST_FOLDS: Final = 2
FOLD: Final = "fold-{}"  # name of a fold, counted from 1


@dataclass(frozen=True, kw_only=True)
class SplitSlide:
    """A labelled slide and the part it is in: ``train``, ``val``, ``test`` or ``external``."""

    slide_id: str
    patient_id: str
    label: str
    cohort: str
    split: str


Splits = tuple[SplitSlide, ...]


def labelled(slides: Iterable[CohortSlide]) -> Splits:
    """Return the slides that have a label, each with the ``split`` its table gives, or none.

    Raises:
        LearnError: A labelled slide names no patient.
    """
    kept = []
    for slide in slides:
        if slide.label is None:
            continue
        if slide.patient_id is None:
            raise LearnError(
                f"slide {slide.slide_id!r} has a label but no patient_id; splits are by patient, "
                "so fill the column in (the slide_id, if each slide is a patient of its own)"
            )
        kept.append(
            SplitSlide(
                slide_id=slide.slide_id,
                patient_id=slide.patient_id,
                label=slide.label,
                cohort=slide.cohort or "",
                split=slide.split or "",
            )
        )
    return tuple(kept)


def draw_splits(
    slides: Splits,
    asked: SplitSettings,
    site_of: Mapping[str, str] | None = None,
    *,
    allow_overlap: bool = False,
) -> list[Splits]:
    """Return the split, or that of each fold.

    Args:
        slides: The internal slides.
        asked: How to split them.
        site_of: Site of each slide, where whole sites are to be kept.
        allow_overlap: Take given splits that share patients, an audited and accepted risk.

    Raises:
        LearnError: They cannot be split so.
    """
    site_of = site_of or {}
    val, seed = asked.val_fraction, asked.seed
    if asked.takes_given(slides):
        if asked.folds:
            raise LearnError(
                "the cohort table gives splits, and --folds draws its own; pass --split random "
                "(or site), or leave --folds out"
            )
        return [honour_splits(slides, val_fraction=val, seed=seed, allow_overlap=allow_overlap)]
    if asked.folds:
        sites = site_of if asked.split == "site" else None
        return fold_patients(slides, folds=asked.folds, val_fraction=val, seed=seed, site_of=sites)
    test = asked.test_fraction
    if asked.split == "site":
        return [split_sites(slides, site_of, test_fraction=test, val_fraction=val, seed=seed)]
    return [split_patients(slides, test_fraction=test, val_fraction=val, seed=seed)]


def split_patients(
    slides: Sequence[SplitSlide],
    *,
    test_fraction: float = 0.2,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Split at random, by patient, each class spread over the parts.

    A patient with slides of several labels counts for each of them and stays whole.

    Args:
        slides: Labelled slides; their ``split`` is ignored.
        test_fraction: Share of all patients.
        val_fraction: Share of the patients that are not tested on; used for early stopping,
            model choice and calibration.
        seed: The same seed gives the same split, whatever the order of ``slides``.

    Returns:
        The slides in their order, each with its ``split``.

    Raises:
        LearnError: A class has fewer than three patients, or there is only one class.
    """
    check_slides(slides)
    rest = 1 - test_fraction
    fractions = {
        "train": rest * (1 - val_fraction),
        "val": rest * val_fraction,
        "test": test_fraction,
    }
    return assigned(slides, deal_patients(labels_of(slides), fractions, seed))


def honour_splits(
    slides: Sequence[SplitSlide],
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    allow_overlap: bool = False,
) -> Splits:
    """Take the splits that the cohort table gives; without ``val``, draw it from ``train``.

    Raises:
        LearnError: A slide has no split or an unknown one, a patient is in two parts (unless
            ``allow_overlap``, an audited and accepted risk), or a class that is tested on is not
            trained on.
    """
    check_slides(slides)
    wrong = [slide for slide in slides if slide.split not in INTERNAL]
    if wrong:
        raise LearnError(
            f"slide {wrong[0].slide_id!r} has the split {wrong[0].split!r}; where the cohort table "
            f"gives splits, each labelled slide needs one of {', '.join(INTERNAL)}"
        )
    if not allow_overlap:
        assert_no_patient_overlap(slides)
    splits = tuple(slides)
    if not any(slide.split == "val" for slide in splits):
        train = [slide for slide in splits if slide.split == "train"]
        part_of = deal_patients(labels_of(train), _less(val_fraction), seed)
        splits = tuple(
            replace(s, split=part_of[s.patient_id]) if s.split == "train" else s for s in splits
        )
    untrained = _classes(splits) - _classes(slide for slide in splits if slide.split == "train")
    if untrained:
        raise LearnError(
            f"the split column leaves no training slide of {', '.join(sorted(untrained))}; "
            "move patients of it to train, or drop the class"
        )
    return splits


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
    if folds < FEWEST_FOLDS:
        raise LearnError(f"{folds} folds asked for; cross-validation needs at least {FEWEST_FOLDS}")
    check_slides(slides)
    names = [FOLD.format(index + 1) for index in range(folds)]
    shares = dict.fromkeys(names, 1 / folds)
    if site_of is None:
        fold_of = deal_patients(labels_of(slides), shares, seed)
    else:
        fold_of = deal_sites(labels_of(slides), _sites_of(slides, site_of), shares, seed)
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
    part_of = deal_sites(labels_of(slides), _sites_of(slides, site_of), shares, seed)
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
    part_of = deal_patients(rest, _less(val_fraction), seed)
    return assigned(slides, dict.fromkeys(labels, "test") | part_of)


def assert_no_patient_overlap(slides: Iterable[SplitSlide]) -> None:
    """Refuse splits that share a patient.

    Raises:
        LearnError: It names the patients and the parts they are in.
    """
    parts: dict[str, set[str]] = defaultdict(set)
    for slide in slides:
        parts[slide.patient_id].add(slide.split)
    shared = {patient: sorted(found) for patient, found in parts.items() if len(found) > 1}
    if shared:
        named = "; ".join(f"{patient} in {' and '.join(shared[patient])}" for patient in shared)
        raise LearnError(
            f"{len(shared)} patient{'s' * (len(shared) > 1)} in more than one split: {named}; "
            "all slides of a patient must be in one"
        )


def splits_digest(slides: Iterable[SplitSlide]) -> str:
    """Return the digest of who is where; the order of the slides does not matter."""
    text = _csv(sorted(slides, key=lambda slide: slide.slide_id))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_splits(path: Path, slides: Iterable[SplitSlide]) -> None:
    """Write ``slide_id, patient_id, label, cohort, split``, one row a slide."""
    write_text(path, _csv(slides))


def read_splits(path: Path) -> Splits:
    """Read what :func:`write_splits` wrote.

    Raises:
        LearnError: The file is missing or has other columns.
    """
    names = [field.name for field in fields(SplitSlide)]
    table = read_table(path, error=LearnError)
    if table.columns != tuple(names):
        raise LearnError(f"{path}: expected the columns {', '.join(names)}")
    return tuple(SplitSlide(**row.cells) for row in table)


def _csv(slides: Iterable[SplitSlide]) -> str:
    names = [field.name for field in fields(SplitSlide)]
    return to_csv(names, ([getattr(slide, name) for name in names] for slide in slides))


def check_slides(slides: Sequence[SplitSlide]) -> None:
    """Refuse slides that cannot be split.

    Raises:
        LearnError: A slide stands twice, or there is only one class.
    """
    ids = [slide.slide_id for slide in slides]
    twice = [slide_id for slide_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise LearnError(f"slide_id {twice[0]!r} stands twice; a slide is in one split")
    classes = sorted(_classes(slides))
    if len(classes) < 2:
        raise LearnError(
            f"{len(slides)} labelled slides with {len(classes)} label"
            f"{'s' * (len(classes) != 1)} ({', '.join(classes) or 'none'}); a classifier needs "
            "at least two"
        )


def _less(val_fraction: float) -> dict[str, float]:
    return {"train": 1 - val_fraction, "val": val_fraction}


def _sites_of(
    slides: Iterable[SplitSlide], site_of: Mapping[str, str]
) -> dict[str, frozenset[str]]:
    """Return the sites of each patient.

    Raises:
        LearnError: A slide has no site.
    """
    homeless = sorted({s.slide_id for s in slides if not site_of.get(s.slide_id)})
    if homeless:
        raise LearnError(
            f"{len(homeless)} labelled slides have no site ({named(homeless)}); fill the "
            "cohort table's site column in, or split by patient (--split random)"
        )
    sites: dict[str, set[str]] = defaultdict(set)
    for slide in slides:
        sites[slide.patient_id].add(site_of[slide.slide_id])
    return {patient: frozenset(found) for patient, found in sites.items()}


def _classes(slides: Iterable[SplitSlide]) -> set[str]:
    return {slide.label for slide in slides}


def labels_of(slides: Iterable[SplitSlide]) -> dict[str, frozenset[str]]:
    """Return the labels of each patient."""
    labels: dict[str, set[str]] = defaultdict(set)
    for slide in slides:
        labels[slide.patient_id].add(slide.label)
    return {patient: frozenset(found) for patient, found in labels.items()}


def assigned(slides: Iterable[SplitSlide], part_of: Mapping[str, str]) -> Splits:
    """Return the slides, each in the part of its patient."""
    return tuple(replace(slide, split=part_of[slide.patient_id]) for slide in slides)
