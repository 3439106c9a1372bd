"""The audit names planted leaks, each in words, and leaves a clean cohort alone."""

import numpy as np
import pytest

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.learn.audit import audit
from wsi_pipeline.learn.splits import labelled, split_patients


def make_cohort(nuisance, patients=20):
    """Two classes; ``nuisance(label, patient)`` gives the columns of a patient's slides."""
    return [
        CohortSlide(
            slide_id=f"{label}{patient}-{number}",
            path="x.svs",
            patient_id=f"{label}{patient}",
            label=label,
            cohort="main",
            **nuisance(label, patient),
        )
        for label in ("normal", "tumour")
        for patient in range(patients)
        for number in range(2)
    ]


def found_in(cohort, digests=None):
    splits = split_patients(labelled(cohort))
    return audit(splits, cohort, digests or {slide.slide_id: slide.slide_id for slide in splits})


def test_a_freezer_that_tells_the_label_is_called_out():
    cohort = make_cohort(
        lambda label, _: {"preservation": "frozen" if label == "normal" else "paraffin"}
    )
    (finding,) = found_in(cohort)
    assert finding.blocking
    assert "preservation alone tells normal from the rest with an AUROC of 1.00" in finding.text
    assert "normal has preservation 'frozen' in 40 of 40 slides" in finding.text


@pytest.mark.parametrize("column", ["site", "scanner", "preservation"])
def test_a_balanced_nuisance_is_left_alone(column):
    rng = np.random.default_rng(4)
    values = {(label, p): str(rng.integers(3)) for label in ("normal", "tumour") for p in range(20)}
    assert found_in(make_cohort(lambda label, p: {column: values[label, p]})) == ()


def test_sites_of_one_patient_each_tell_nothing():
    """A nuisance must tell the label of patients it was not learned from."""
    assert found_in(make_cohort(lambda label, p: {"site": f"{label}{p}"})) == ()


def test_weak_or_uncertain_evidence_does_not_block():
    def leaning(label, patient):
        return {"scanner": "A" if (label == "normal") == (patient % 5 > 0) else "B"}

    findings = found_in(make_cohort(leaning, patients=10))
    assert not any(finding.blocking for finding in findings)


def test_unknown_and_constant_columns_are_no_nuisance():
    assert found_in(make_cohort(lambda *_: {"site": "one"})) == ()
    assert found_in(make_cohort(lambda *_: {})) == ()


def test_one_slide_under_two_names_is_found():
    cohort = make_cohort(lambda *_: {})
    digests = {slide.slide_id: slide.slide_id for slide in cohort}
    same_patient = digests | {"normal0-1": digests["normal0-0"]}
    (finding,) = found_in(cohort, same_patient)
    assert "normal0-0, normal0-1 are one slide" in finding.text
    assert not finding.blocking
    (finding,) = found_in(cohort, digests | {"tumour3-0": digests["normal0-0"]})
    assert finding.blocking
