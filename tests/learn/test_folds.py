"""Folds: everybody tested once, sites kept whole, as even as whole sites allow."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn import SplitSlide, fold_patients, join_folds, split_sites
from wsi_pipeline.learn.deal import deal_sites
from wsi_pipeline.learn.splits import labels_of


@st.composite
def cohorts(draw):
    """Two classes over a few sites, each class at enough of them; one or two slides a patient."""
    slides, site_of = [], {}
    sites = draw(st.integers(4, 7))
    for label in "ab":
        for site in range(sites):
            for patient in range(draw(st.integers(1, 4))):
                for number in range(draw(st.integers(1, 2))):
                    name = f"{label}{site}-{patient}-{number}"
                    slides.append(
                        SplitSlide(
                            slide_id=name, patient_id=f"{label}{site}-{patient}", label=label,
                            cohort="", split="",
                        )
                    )  # fmt: skip
                    site_of[name] = f"site{site}"
    return tuple(slides), site_of


@settings(max_examples=15, deadline=None)
@given(cohort=cohorts(), folds=st.integers(2, 4), seed=st.integers(0, 3), whole=st.booleans())
def test_every_patient_is_tested_once_by_a_model_that_saw_nothing_of_it(cohort, folds, seed, whole):
    slides, site_of = cohort
    asked = {"folds": folds, "seed": seed, "site_of": site_of if whole else None}
    found = fold_patients(slides, **asked)
    assert found == fold_patients(slides, **asked)
    tested = [s.slide_id for splits in found for s in splits if s.split == "test"]
    assert sorted(tested) == sorted(s.slide_id for s in slides)
    for splits in found:
        parts = {}
        for slide in splits:
            parts.setdefault(slide.patient_id, set()).add(slide.split)
        assert all(len(where) == 1 for where in parts.values())
        assert {s.split for s in splits} == {"train", "val", "test"}
        assert {s.label for s in splits if s.split == "test"} == {"a", "b"}
        if whole:
            inside = {site_of[s.slide_id] for s in splits if s.split == "test"}
            assert not inside & {site_of[s.slide_id] for s in splits if s.split != "test"}
    joined = join_folds(found)
    assert [s.slide_id for s in joined] == [s.slide_id for s in slides]
    assert {s.split for s in joined} == {f"fold-{k + 1}" for k in range(folds)}


def unevenness(slides, part_of, shares):
    """How far every class's patients are from their shares, relative to the class."""
    total = 0.0
    for label in {s.label for s in slides}:
        patients = {s.patient_id for s in slides if s.label == label}
        for part, share in shares.items():
            inside = sum(part_of[patient] == part for patient in patients)
            total += abs(inside - share * len(patients)) / len(patients)
    patients = {s.patient_id for s in slides}
    for part, share in shares.items():
        inside = sum(part_of[patient] == part for patient in patients)
        total += abs(inside - share * len(patients)) / len(patients)
    return total


@settings(max_examples=15, deadline=None)
@given(cohort=cohorts(), test=st.sampled_from([0.2, 0.3, 0.5]))
def test_sites_are_dealt_as_evenly_as_the_best_of_all_ways(cohort, test):
    slides, site_of = cohort
    shares = {"train": 1 - test, "test": test}
    sites_of = {s.patient_id: frozenset([site_of[s.slide_id]]) for s in slides}
    found = deal_sites(labels_of(slides), sites_of, shares, 0)
    sites = sorted(set(site_of.values()))
    best = np.inf
    for way in product(shares, repeat=len(sites)):
        part = dict(zip(sites, way, strict=True))
        part_of = {s.patient_id: part[site_of[s.slide_id]] for s in slides}
        if all(
            {p for s in slides if s.label == label for p in [part_of[s.patient_id]]} == set(shares)
            for label in "ab"
        ):
            best = min(best, unevenness(slides, part_of, shares))
    assert unevenness(slides, found, shares) <= best * 1.02 + 1e-3


def test_sites_that_a_patient_ties_together_stay_together():
    def slide(name, patient, label):
        return SplitSlide(slide_id=name, patient_id=patient, label=label, cohort="", split="")

    slides = [slide("x1", "x", "a"), slide("x2", "x", "a"), slide("y", "y", "b")]
    slides += [slide(f"{label}{n}", f"{label}{n}", label) for label in "ab" for n in range(6)]
    site_of = {"x1": "S1", "x2": "S2", "y": "S2"}
    site_of |= {f"{label}{n}": f"T{n}" for label in "ab" for n in range(6)}
    splits = split_sites(slides, site_of)
    tied = {s.split == "test" for s in splits if s.slide_id in ("x1", "x2", "y")}
    assert len(tied) == 1


def test_what_whole_sites_cannot_do_is_said():
    slides = [
        SplitSlide(slide_id=f"{c}{n}", patient_id=f"{c}{n}", label=c, cohort="", split="")
        for c in "ab" for n in range(6)
    ]  # fmt: skip
    one_each = {s.slide_id: f"site-{s.label}" for s in slides}
    with pytest.raises(LearnError, match=r"'a' has 1 site; .*--split random"):
        split_sites(slides, one_each)
    with pytest.raises(LearnError, match="2 labelled slides have no site"):
        split_sites(slides, {s.slide_id: "x" for s in slides[2:]})
    with pytest.raises(LearnError, match="at least 2"):
        fold_patients(slides, folds=1)
