"""The plan of a synthetic cohort, and its tables."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from wsi_pipeline.cohort import read_cohort, read_core_map
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.synthetic import COHORT, LABELS, TMA_COHORT, plan_cohort, write_tables


def test_plan_depends_on_the_seed_alone() -> None:
    assert plan_cohort(3) == plan_cohort(3)
    assert plan_cohort(3) != plan_cohort(4)


def test_labels_patients_and_scanners_are_balanced() -> None:
    whole = [spec for spec in plan_cohort(0) if spec.cohort == COHORT]
    patients = {spec.patient_id: spec for spec in whole}
    assert Counter(spec.label for spec in patients.values()) == dict.fromkeys(LABELS, 8)
    both = Counter((spec.label, spec.scanner) for spec in patients.values())
    assert set(both.values()) == {4}
    slides = Counter(spec.label for spec in whole if spec.artefact not in ("blank", "blurred"))
    assert set(slides.values()) == {10}


def test_ids_do_not_tell_the_label() -> None:
    whole = sorted(
        {(spec.patient_id, spec.label) for spec in plan_cohort(0) if spec.cohort == COHORT}
    )
    in_order = [label for _, label in whole]
    runs = 1 + sum(a != b for a, b in pairwise(in_order))
    assert runs > 12, "labels must be mixed along the patients' numbers"


def test_each_flaw_is_there_and_spoils_no_patient() -> None:
    specs = plan_cohort(0, include_broken=True)
    flaws = Counter(spec.artefact for spec in specs)
    assert flaws == {
        "none": len(specs) - 6, "pen-blue": 1, "pen-green": 1, "pen-black": 1,
        "blank": 1, "blurred": 1, "truncated": 1,
    }  # fmt: skip
    good = {spec.patient_id for spec in specs if spec.artefact == "none" or "pen" in spec.artefact}
    assert {spec.patient_id for spec in specs} == good
    assert "truncated" not in {spec.artefact for spec in plan_cohort(0)}


def test_tma_patients_are_others() -> None:
    specs = plan_cohort(0)
    (tma,) = (spec for spec in specs if spec.cores)
    assert tma.cohort == TMA_COHORT
    inside = {spec.patient_id for spec in specs}
    assert not inside & {core.patient_id for core in tma.cores}
    assert tma.scanner not in {spec.scanner for spec in specs if not spec.cores}
    for core in tma.cores:
        assert core.diameter_px / 2 < core.x < tma.width - core.diameter_px / 2
        assert core.diameter_px / 2 < core.y < tma.height - core.diameter_px / 2
    assert 0 < sum(not core.present for core in tma.cores) < 5


def test_tables_are_read_back(tmp_path: Path) -> None:
    specs = plan_cohort(0, patients_per_label=2, tma_grid=(2, 3))
    rows = read_cohort(write_tables(specs, tmp_path), LABELS)
    assert [row.slide_id for row in rows] == [spec.slide_id for spec in specs]
    assert {row.label for row in rows} == {*LABELS, None}
    tma = rows[-1]
    assert tma.tma_map is not None
    cores = read_core_map(tmp_path / tma.tma_map)
    assert [(core.row, core.column) for core in cores] == [
        ("A", "1"), ("A", "2"), ("A", "3"), ("B", "1"), ("B", "2"), ("B", "3"),
    ]  # fmt: skip
    assert [core.label for core in cores] == [core.label for core in specs[-1].cores]


def test_a_plan_names_every_field_that_makes_its_bytes() -> None:
    spec = plan_cohort(0)[0]
    assert repr(spec) != repr(replace(spec, artefact="blurred"))


@pytest.mark.parametrize(
    "asked", [{"patients_per_label": 0}, {"side_px": 100}, {"tma_grid": (-1, 4)}]
)
def test_impossible_cohorts_are_refused(asked: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="a cohort needs"):
        plan_cohort(0, **asked)
