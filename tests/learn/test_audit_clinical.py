"""What a record says of patients and tissue, and where slides come from, as nuisances."""

from dataclasses import replace

import pytest

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.learn import labelled, split_patients
from wsi_pipeline.learn.audit import SlideEvidence, find_nuisances


def audit(**by_label: tuple[str, str]):
    """Audit twenty patients of each class, with the columns' values of either class."""
    rows = {}
    for number in range(40):
        tumour = number % 2
        row = CohortSlide(
            slide_id=f"s{number}",
            path=f"s{number}.svs",
            patient_id=f"p{number}",
            label="tumour" if tumour else "normal",
            cohort="here",
        )
        rows[row.slide_id] = replace(row, **{n: v[tumour] for n, v in by_label.items()})
    slides = split_patients(labelled(list(rows.values())))
    evidence = {slide.slide_id: SlideEvidence(numbers={}) for slide in slides}
    return find_nuisances(slides, rows, evidence)


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("sex", ("female", "male"), "is of a"),
        ("stage", ("Stage I", "Stage III"), "is of Stage"),
        ("section_location", ("TOP", "BOTTOM"), "section"),
        ("warnings", ("General", "Item flagged DNU"), "is flagged"),
        ("age", ("40", "70"), "the patient's age"),
        ("percent_tumor_nuclei", ("0", "80.0"), "the share of tumour nuclei"),
    ],
)
def test_a_clinical_fact_that_tells_the_label_is_a_remark(column, values, words) -> None:
    (finding,) = audit(**{column: values}).findings
    assert not finding.blocking
    assert f"{column} alone tells" in finding.text
    assert words in finding.text
    assert "may go with the label by right" in finding.text


def test_a_source_that_tells_the_label_blocks() -> None:
    """Normal liver from elsewhere: a model can tell the source in the place of the tissue."""
    (finding,) = audit(cohort=("gtex", "tcga")).findings
    assert finding.blocking
    assert "cohort alone tells" in finding.text
    assert "comes from source 'gtex'" in finding.text


def test_facts_that_are_the_same_or_no_numbers_tell_nothing() -> None:
    assert audit(sex=("male", "male"), age=("old", "young"), grade=("G2", "G2")).findings == ()
