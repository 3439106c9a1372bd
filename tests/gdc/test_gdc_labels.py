"""Slide names, labels, recipes; counts checked against the real records."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.cohort import read_cohort, write_cohort
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.gdc import (
    GdcQuery,
    Selection,
    label_slide,
    parse_slide_name,
    read_manifest,
    read_record,
    select,
)

ROOT = Path(__file__).parents[2]
QUERIES = ("gdc_tcga_liver.toml", "gdc_tcga_liver_diagnostic.toml")
UUID = "85C2C328-8124-443A-A869-FEBA46EC6A20"
QUERY = GdcQuery.make(ROOT / "stages" / "gdc_tcga_liver.toml", {})
assert QUERY.labels is not None
RULES = QUERY.labels


def test_slide_name_parts() -> None:
    name = parse_slide_name(f"TCGA-DD-AADK-01Z-00-DX1.{UUID}.svs")
    assert name is not None
    assert (name.patient_id, name.site, name.sample_code) == ("TCGA-DD-AADK", "DD", "01")
    assert (name.section, name.number, name.uuid) == ("DX", "1", UUID)
    assert (name.preservation, name.is_normal) == ("FFPE", False)


@pytest.mark.parametrize(
    ("filename", "preservation", "normal"),
    [
        ("TCGA-BC-A216-11A-01-TSA.4a81c1fe-c566-4a53-86eb-697d4c085815.svs", "frozen", True),
        (f"TCGA-W7-A93O-01A-03-TS3.{UUID}.svs", "frozen", False),
        (f"TCGA-CC-5264-01A-01-BS1.{UUID}.svs", "frozen", False),
        (f"TCGA-CC-5264-02A-01-MS1.{UUID}.svs", "frozen", False),
        ("TCGA-CR-7395-01A-01-TS1.svs", "frozen", False),
    ],
)
def test_preservation_and_sample(filename: str, preservation: str, normal: bool) -> None:
    name = parse_slide_name(filename)
    assert name is not None
    assert (name.preservation, name.is_normal) == (preservation, normal)


@pytest.mark.parametrize("filename", ["CMU-1.svs", "TCGA-DD-AADK-01Z-00-DX1.txt", "x-TCGA-DD.svs"])
def test_other_names_are_none(filename: str) -> None:
    assert parse_slide_name(filename) is None


def test_every_slide_name_in_the_wild_is_understood(data_dir: Path) -> None:
    names = [
        entry.filename
        for path in sorted((data_dir / "gdc").glob("*manifest*.t*"))
        for entry in read_manifest(path).entries
        if entry.is_slide and entry.filename.startswith("TCGA")
    ]
    assert len(names) > 1000
    assert [name for name in names if parse_slide_name(name) is None] == []


def chol_hits(data_dir: Path) -> list[dict[str, Any]]:
    """The CHOL slides as ``/files`` would answer, from a manifest of all TCGA slides."""
    path = data_dir / "gdc" / "TCGA-CHOL_slides_manifest_2022-12_from_slideflow.tsv"
    return [
        {
            "file_id": entry.id,
            "file_name": entry.filename,
            "md5sum": entry.md5,
            "file_size": entry.size,
            "cases": [{"submitter_id": entry.filename[:12]}],
        }
        for entry in read_manifest(path).entries
    ]


def lihc_hits(data_dir: Path) -> list[dict[str, Any]]:
    text = (data_dir / "gdc" / "gdc_files_hits_TCGA-LIHC_slides_870.json").read_text()
    hits: list[dict[str, Any]] = json.loads(text)["hits"]
    return hits


def choose(hits: list[dict[str, Any]], project: str, recipe: str) -> Selection:
    return select(hits, QUERY.model_copy(update={"projects": (project,), "recipe": recipe}))


def test_lihc_counts_exactly(data_dir: Path) -> None:
    hits = lihc_hits(data_dir)
    frozen = choose(hits, "TCGA-LIHC", "frozen-only")
    diagnostic = choose(hits, "TCGA-LIHC", "diagnostic")
    assert Counter(slide.label for slide in frozen.slides) == {"hcc": 402, "normal": 89}
    assert Counter(slide.label for slide in diagnostic.slides) == {"hcc": 379}
    assert len({slide.patient_id for slide in diagnostic.slides}) == 365
    both = [*frozen.slides, *diagnostic.slides]
    assert (len(both), len({slide.patient_id for slide in both})) == (870, 377)
    assert {slide.preservation for slide in frozen.slides} == {"frozen"}
    assert {slide.preservation for slide in diagnostic.slides} == {"FFPE"}
    manifest = data_dir / "gdc" / "TCGA-LIHC_slides_manifest_2022-12_from_slideflow.tsv"
    known = {entry.id: entry for entry in read_manifest(manifest).entries}
    assert {entry.id: entry for entry in (*frozen.entries, *diagnostic.entries)} == known


def test_chol_counts(data_dir: Path) -> None:
    hits = chol_hits(data_dir)
    frozen = choose(hits, "TCGA-CHOL", "frozen-only")
    diagnostic = choose(hits, "TCGA-CHOL", "diagnostic")
    assert Counter(slide.label for slide in frozen.slides) == {"cca": 51, "normal": 20}
    assert Counter(slide.label for slide in diagnostic.slides) == {"cca": 39}
    assert len({slide.patient_id for slide in (*frozen.slides, *diagnostic.slides)}) == 51


def test_the_output_says_what_a_recipe_cannot_show(data_dir: Path) -> None:
    hits = lihc_hits(data_dir)
    for hit in hits:
        hit["cases"][0]["project"] = {"project_id": "TCGA-LIHC"}
    hits += chol_hits(data_dir)
    for hit in hits[870:]:
        hit["cases"][0]["project"] = {"project_id": "TCGA-CHOL"}
    frozen = "\n".join(select(hits, QUERY).notes)
    assert "cca and hcc share no tissue source site (12 and 38)" in frozen
    assert "normal share no" not in frozen
    diagnostic = select(hits, QUERY.model_copy(update={"recipe": "diagnostic"}))
    assert "this cohort holds no normal slide" in "\n".join(diagnostic.notes)
    assert diagnostic.left_out == {"frozen, not in recipe diagnostic": 562}


def hit_with(codes: list[str], **case: Any) -> dict[str, Any]:
    diagnoses = [{"morphology": code} for code in codes]
    return {"cases": [{"submitter_id": "TCGA-DD-AADK", "diagnoses": diagnoses} | case]}


@pytest.mark.parametrize(
    ("filename", "project", "hit", "label", "basis"),
    [
        ("01A-01-TS1", "TCGA-LIHC", hit_with(["8170/3"]), "hcc", "morphology 8170/3"),
        ("01A-01-TS1", "TCGA-LIHC", hit_with(["8174/3"]), "hcc", "morphology 8174/3"),
        ("01A-01-TS1", "TCGA-LIHC", hit_with(["8171/3"]), None, "morphology 8171/3"),
        ("01A-01-TS1", "TCGA-LIHC", hit_with(["8170/3", "8180/3"]), None, "morphology 8180/3"),
        ("01A-01-TS1", "TCGA-LIHC", hit_with(["8140/3"]), None, "morphology 8140/3"),
        ("01A-01-TS1", "TCGA-LIHC", hit_with(["Not Reported"]), "hcc", "project alone"),
        ("01A-01-TS1", "TCGA-LIHC", {}, "hcc", "project alone"),
        ("01A-01-TS1", "TCGA-CHOL", hit_with(["8160/3"]), "cca", "morphology 8160/3"),
        ("01A-01-TS1", "TCGA-CHOL", hit_with(["8180/3"]), None, "morphology 8180/3"),
        ("01A-01-TS1", "TCGA-BRCA", hit_with(["8500/3"]), None, "project TCGA-BRCA"),
        ("01A-01-TS1", None, {}, None, "project unknown"),
        ("11A-01-TS1", "TCGA-LIHC", hit_with(["8171/3"]), "normal", "Solid Tissue Normal"),
        ("11A-01-TS1", "TCGA-CHOL", {}, "normal", "Solid Tissue Normal"),
        ("02A-01-TS1", "TCGA-LIHC", hit_with(["8170/3"]), "hcc", "morphology 8170/3"),
        ("06A-01-TS1", "TCGA-LIHC", hit_with(["8170/3"]), None, "Metastatic"),
        (
            "01A-01-TS1",
            "TCGA-LIHC",
            {"cases": [{"submitter_id": "TCGA-XX-0000"}]},
            None,
            "the record's case is not TCGA-DD-AADK",
        ),
        (
            "11A-01-TS1",
            "TCGA-LIHC",
            hit_with([], samples=[{"sample_type": "Primary Tumor"}]),
            None,
            "sample type differs between record and file name",
        ),
    ],
)
def test_labels(
    filename: str, project: str | None, hit: Mapping[str, Any], label: str | None, basis: str
) -> None:
    record = read_record({**hit, "file_name": f"TCGA-DD-AADK-{filename}.{UUID}.svs"})
    if record.trouble:
        assert (None, record.trouble) == (label, basis)
        return
    found = label_slide(record, project, RULES)
    assert (found.label, found.basis) == (label, basis)


def test_another_primary_tumour_of_the_patient_does_not_count() -> None:
    name = f"TCGA-DD-AADK-01A-01-TS1.{UUID}.svs"
    diagnoses = [
        {"morphology": "8170/3", "diagnosis_is_primary_disease": "true"},
        {"morphology": "8180/3", "diagnosis_is_primary_disease": "false"},
    ]
    hit = {
        "file_name": name,
        "cases": [{"submitter_id": "TCGA-DD-AADK", "diagnoses": diagnoses}],
    }
    assert label_slide(read_record(hit), "TCGA-LIHC", RULES).label == "hcc"


def test_incomplete_records_are_left_out_with_the_reason() -> None:
    whole = {
        "file_id": "3d3b0c1c-fb8d-4d1d-bba5-f0033320adbb",
        "file_name": f"TCGA-DD-AADK-01A-01-TS1.{UUID}.svs",
        "md5sum": "0" * 32,
        "file_size": 5,
        "cases": [{"project": {"project_id": "TCGA-LIHC"}}],
    }
    hits = [{key: whole[key] for key in whole if key != lost} for lost in ("md5sum", "file_size")]
    chosen = select([*hits, whole | {"file_name": "../x.svs"}, whole], QUERY)
    assert len(chosen.slides) == 1
    assert chosen.left_out == {
        "incomplete record: no md5": 1,
        "incomplete record: no size": 1,
        "incomplete record: filename '../x.svs' is not a plain file name": 1,
    }


@pytest.mark.parametrize("name", QUERIES)
def test_shipped_queries_are_understood(name: str) -> None:
    query = GdcQuery.make(ROOT / "stages" / name, {})
    assert query.recipe == ("diagnostic" if "diagnostic" in name else "frozen-only")
    assert query.labels == RULES


def test_query_file_with_an_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "query.toml"
    path.write_text('projects = ["TCGA-LIHC"]\nreceipe = "diagnostic"\n[labels]\nclasses = []\n')
    with pytest.raises(ConfigError, match="receipe"):
        GdcQuery.make(path, {})


def test_shipped_manifest_and_cohort_agree_with_the_records(data_dir: Path, tmp_path: Path) -> None:
    entries = read_manifest(ROOT / "manifests" / "gdc_tcga_liver.txt").entries
    slides = read_cohort(ROOT / "manifests" / "liver.csv", labels=("hcc", "cca", "normal"))
    assert Counter(slide.label for slide in slides) == {"hcc": 4, "cca": 4, "normal": 4}
    assert {slide.path for slide in slides} == {e.relative_path.as_posix() for e in entries}
    hits = lihc_hits(data_dir)
    for hit in hits:
        hit["cases"][0]["project"] = {"project_id": "TCGA-LIHC"}
    for hit in chol_hits(data_dir):
        hit["cases"][0]["project"] = {"project_id": "TCGA-CHOL"}
        hits.append(hit)
    chosen = select(hits, QUERY)
    assert set(slides) <= set(chosen.slides)
    assert set(entries) <= set(chosen.entries)
    for label in ("hcc", "cca", "normal"):
        shipped = {slide.path for slide in slides if slide.label == label}
        sizes = {entry.relative_path.as_posix(): entry.size for entry in chosen.entries}
        every = sorted(
            (slide.path for slide in chosen.slides if slide.label == label), key=sizes.__getitem__
        )
        assert shipped == set(every[:4])
    write_cohort(tmp_path / "again.csv", slides)
    assert (tmp_path / "again.csv").read_text() == (ROOT / "manifests" / "liver.csv").read_text()
