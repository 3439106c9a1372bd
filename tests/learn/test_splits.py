"""Splits keep patients whole and every class everywhere."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.splits import (
    SplitSlide,
    assert_no_patient_overlap,
    fold_patients,
    honour_splits,
    labelled,
    read_splits,
    split_patients,
    splits_digest,
    write_splits,
)


def make_slide(patient: str, label: str, number: int = 0, split: str = "") -> SplitSlide:
    return SplitSlide(
        slide_id=f"{patient}-{label}-{number}",
        patient_id=patient,
        label=label,
        cohort="made",
        split=split,
    )


def make_cohort(**patients_by_label: int) -> list[SplitSlide]:
    return [
        make_slide(f"{label}{number}", label)
        for label, count in patients_by_label.items()
        for number in range(count)
    ]


def patients_in(slides: tuple[SplitSlide, ...]) -> dict[tuple[str, str], set[str]]:
    found = defaultdict(set)
    for slide in slides:
        found[slide.split, slide.label].add(slide.patient_id)
    return found


@st.composite
def mixed_cohorts(draw: st.DrawFn) -> list[SplitSlide]:
    """At least four patients of each class alone, and any number with several labels."""
    slides = make_cohort(
        hcc=draw(st.integers(4, 30)), cca=draw(st.integers(4, 12)), normal=draw(st.integers(4, 9))
    )
    for number in range(draw(st.integers(0, 15))):
        labels = draw(st.sets(st.sampled_from(["hcc", "cca", "normal"]), min_size=2))
        slides += [make_slide(f"mixed{number}", label) for label in sorted(labels)]
    return draw(st.permutations(slides))


@settings(max_examples=25, deadline=None)
@given(mixed_cohorts(), st.integers(0, 9))
def test_patients_are_whole_and_classes_everywhere(slides, seed):
    splits = split_patients(slides, seed=seed)
    assert_no_patient_overlap(splits)
    assert [s.slide_id for s in splits] == [s.slide_id for s in slides]
    found = patients_in(splits)
    fractions = {"train": 0.64, "val": 0.16, "test": 0.2}
    for label in ("hcc", "cca", "normal"):
        total = sum(len(found[split, label]) for split in fractions)
        for split, fraction in fractions.items():
            assert found[split, label]
            # Integers, at least one each, and patients who count for several classes.
            assert abs(len(found[split, label]) - fraction * total) <= 2


@settings(max_examples=8, deadline=None)
@given(mixed_cohorts(), st.integers(2, 4))
def test_each_patient_is_tested_in_one_fold(slides, folds):
    tested = []
    for splits in fold_patients(slides, folds=folds, seed=3):
        assert_no_patient_overlap(splits)
        assert {s.label for s in splits if s.split == "val"} == {"hcc", "cca", "normal"}
        tested += sorted({s.patient_id for s in splits if s.split == "test"})
    assert sorted(tested) == sorted({s.patient_id for s in slides})


def test_fractions_are_met_where_they_divide():
    found = patients_in(split_patients(make_cohort(hcc=50, cca=25)))
    sizes = {key: len(patients) for key, patients in found.items()}
    assert sizes == {
        ("train", "hcc"): 32,
        ("val", "hcc"): 8,
        ("test", "hcc"): 10,
        ("train", "cca"): 16,
        ("val", "cca"): 4,
        ("test", "cca"): 5,
    }


def test_seed_decides_and_row_order_does_not():
    slides = make_cohort(hcc=12, cca=9)
    one = split_patients(slides, seed=1)
    assert splits_digest(split_patients(slides[::-1], seed=1)) == splits_digest(one)
    assert splits_digest(split_patients(slides, seed=2)) != splits_digest(one)


def test_rare_class_is_refused_by_name():
    with pytest.raises(LearnError, match=r"'cca' has 2 patients.*at least 3"):
        split_patients(make_cohort(hcc=20, cca=2))


def test_one_class_is_refused():
    with pytest.raises(LearnError, match="at least two"):
        split_patients(make_cohort(hcc=20))


def test_impossible_mixture_is_refused():
    # Three patients carry both rare classes of which only three exist: fine. Sharing two of three
    # patients between each pair of four classes leaves no way to have each class everywhere.
    pairs = ["ab", "bc", "cd", "da", "ac", "bd"]
    slides = [make_slide(f"p{pair}", label) for pair in pairs for label in pair]
    assert_no_patient_overlap(split_patients(slides))  # every class has three patients: possible
    fewer = [slide for slide in slides if slide.patient_id != "pbd"] + [
        make_slide("pb", "b"),
        make_slide("pac2", "a"),
        make_slide("pac2", "d"),
    ]
    for seed in range(3):
        found = patients_in(split_patients(fewer, seed=seed))
        assert all(found[split, label] for split in ("train", "val", "test") for label in "abcd")


def test_overlap_is_named():
    slides = [make_slide("p1", "hcc", 0, "train"), make_slide("p1", "hcc", 1, "test")]
    with pytest.raises(LearnError, match="p1 in test and train"):
        assert_no_patient_overlap(slides)


def test_given_splits_are_honoured_and_validation_comes_from_training():
    slides = [
        make_slide(f"{label}{number}", label, split="test" if number < 3 else "train")
        for label in ("hcc", "cca")
        for number in range(10)
    ]
    splits = honour_splits(slides)
    assert {s.slide_id for s in splits if s.split == "test"} == {
        s.slide_id for s in slides if s.split == "test"
    }
    assert {s.label for s in splits if s.split == "val"} == {"hcc", "cca"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (make_slide("hcc9", "hcc", 1, "test"), "hcc9 in test and train"),
        (make_slide("new", "hcc", 0, ""), "needs one of"),
        (make_slide("new", "adenoma", 0, "test"), "no training slide of adenoma"),
    ],
)
def test_given_splits_are_audited(change, message):
    slides = [
        make_slide(f"{label}{number}", label, split=["test", "val", "train"][min(number, 2)])
        for label in ("hcc", "cca")
        for number in range(10)
    ]
    with pytest.raises(LearnError, match=message):
        honour_splits([*slides, change])


def test_table_round_trip(tmp_path):
    splits = split_patients(make_cohort(hcc=5, cca=5))
    write_splits(tmp_path / "splits.csv", splits)
    assert read_splits(tmp_path / "splits.csv") == splits
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LearnError, match="expected the columns"):
        read_splits(tmp_path / "other.csv")


def test_a_label_without_a_patient_is_refused():
    with pytest.raises(LearnError, match="no patient_id"):
        labelled([CohortSlide(slide_id="s", path="s.svs", label="hcc")])
    assert labelled([CohortSlide(slide_id="s", path="s.svs")]) == ()
