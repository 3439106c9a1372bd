"""Several tasks and several cohort tables in one study file, by the command line."""

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from wsi_pipeline.cohort import CohortSlide, read_cohort, write_cohort
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.pipeline.study_file import read_study
from wsi_pipeline.report import main as report_main
from wsi_pipeline.run import main
from wsi_pipeline.verbs.models import PredictConfig

ENCODER = "made.for_test"
TASKS = """
[study]
run = "{run}"
encoder = "made"

[[train]]
name = "tumour"
label_map = "hcc=tumour,cca=tumour,normal=normal"
{quick}

[[train]]
name = "subtype"
only_labels = ["hcc", "cca"]
{quick}

[predict]
device = "cpu"
heatmaps = false
geojson = false

[report]
"""
QUICK = """accept_risk = "eight features make many tiles alike"
epochs = 4
hidden = 8
resamples = 100
device = "cpu"
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with features of three labels, eight patients each."""
    folder = tmp_path / "run"
    stores = folder / "features" / ENCODER
    stores.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for index, label in enumerate(("hcc", "cca", "normal")):
        for number in range(8):
            name = f"{label}-{number}"
            features = rng.normal(size=(12, 8)).astype(np.float32)
            features[:, index] += 2
            with h5py.File(stores / f"{name}.h5", "w") as file:
                file["features"] = features
                file["coords"] = np.stack([np.arange(12) * 512, np.zeros(12, int)], axis=1)
                file.attrs.update(
                    {"encoder": ENCODER, "tile_px": 256, "tile_px_level0": 512.0, "mpp": 0.5}
                )
            rows.append(
                CohortSlide(slide_id=name, path=f"{name}.svs", patient_id=f"P-{name}",
                            label=label, cohort="main")
            )  # fmt: skip
    write_cohort(folder / "cohort.csv", rows)
    return folder


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def test_two_tasks_of_one_run_folder_each_with_its_figures(run: Path, tmp_path: Path) -> None:
    study = written(tmp_path, TASKS.format(run=run, quick=QUICK))
    assert main([str(study)]) == 0
    for name, classes in (("tumour", "normal tumour"), ("subtype", "cca hcc")):
        table = pd.read_csv(run / "predictions" / name / "slides.csv")
        assert len(table.slide_id.unique()) == 24
        assert [c[2:] for c in table if c.startswith("p_")] == classes.split()
    page = (run / "report" / "index.html").read_text("utf-8")
    assert "Tells apart normal, tumour (hcc as tumour, cca as tumour, normal as normal)." in page
    assert "Tells apart cca, hcc (hcc, cca alone)." in page
    assert page.count("<h3>Per patient</h3>") == 2
    assert "slides failed" not in page  # they have features; that no tiles are here is no loss
    assert page.count('<a href="#slide-') == 24
    models = {path: path.stat().st_mtime_ns for path in run.glob("models/*/model.safetensors")}
    assert len(models) == 2
    assert main([str(study)]) == 0  # what is finished is not redone
    assert models == {path: path.stat().st_mtime_ns for path in models}
    readers_are_reported(run, tmp_path)


def readers_are_reported(run: Path, tmp_path: Path) -> None:
    """One reads every slide as hcc alone and rightly with the model, in half of the time."""
    cohort = pd.read_csv(run / "cohort.csv")
    cohort["reader_a"], cohort["seconds_a"] = "hcc", 60
    cohort.to_csv(run / "cohort.csv", index=False)
    more = cohort.rename(columns={"label": "reader_a_with_model"})
    more["seconds_a_with_model"] = 30
    more[["slide_id", "reader_a_with_model", "seconds_a_with_model"]].to_csv(
        tmp_path / "readings.csv", index=False
    )
    told = ["--readings", str(tmp_path / "readings.csv"), "--wage-per-hour", "120"]
    assert report_main([str(run), *told]) == 0
    stored = json.loads((run / "report" / "readers.json").read_text())
    assert [(p["bundle"], p["split"]) for p in stored["parts"]] == [
        ("subtype", "test"), ("tumour", "test")
    ]  # fmt: skip
    assert stored["costs"]["machine_s"].keys() == {"predict"}
    table = pd.read_csv(run / "report" / "readers.csv")
    for bundle in ("subtype", "tumour"):
        judged = pd.read_csv(run / "models" / bundle / "predictions.csv")
        tested = judged[(judged.split == "test") & (judged.model == judged.model.iloc[0])]
        right = (tested.label == {"subtype": "hcc", "tumour": "tumour"}[bundle]).mean()
        mine = table[table.model == bundle].set_index(["what", "of"])
        assert mine.value["accuracy", "reader"] == pytest.approx(right)
        assert mine.value["accuracy", "with model"] == 1
        gain = mine.loc["gain in accuracy", "with model less reader"]
        assert gain.value == pytest.approx(1 - right)
        assert gain.slides == len(tested)
        assert gain.promised == 0.1
        assert mine.value["seconds a case", "difference"] == -30
        assert mine.value["cost a case", "alone"] == pytest.approx(2)
        assert mine.value["cost a case", "with model"] == pytest.approx(1)
    page = (run / "report" / "index.html").read_text("utf-8")
    for words in (
        "Readers and the model",
        "reader with model less reader",
        "Gain of +10 %",
        "<td>2.00",
    ):
        assert words in page
    (tmp_path / "readings.csv").write_text("slide_id,reader_a\nhcc-0,hhc\n")
    assert report_main([str(run), *told]) != 0
    (tmp_path / "readings.csv").write_text("slide_id,reader_a\nhcc-00,hcc\n")
    assert report_main([str(run), *told]) == 2


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ('name = "subtype"', 'name = "tumour"', "two [[train]] write the model 'tumour'"),
        (
            "cca=tumour",
            "ccc=tumour",
            "'tumour': --label-map: there is no label 'ccc'; did you mean",
        ),
        ('["hcc", "cca"]', '["hcc"]', "'subtype': hcc is the only class"),
        ('only_labels = ["hcc", "cca"]', 'label_column = "grade"', "nothing in the column grade"),
        ("[predict]", '[predict]\nmodel = "subtpye"', "models/subtpye, which is not there"),
    ],
)
def test_a_task_that_cannot_be_is_refused_before_the_first_stage(
    run: Path,
    tmp_path: Path,
    wrong: str,
    right: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = written(tmp_path, TASKS.format(run=run, quick=QUICK).replace(wrong, right))
    assert main([str(study)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (run / "models").exists()


def test_predict_is_one_for_each_model_that_is_trained(run: Path, tmp_path: Path) -> None:
    text = TASKS.format(run=run, quick=QUICK)
    told = [c.model for _, c in read_study(written(tmp_path, text)) if isinstance(c, PredictConfig)]
    assert told == [Path("tumour"), Path("subtype")]
    named = text.replace("[predict]", '[predict]\nmodel = "subtype"')
    told = [c.model for _, c in read_study(written(tmp_path, named))
            if isinstance(c, PredictConfig)]  # fmt: skip
    assert told == [Path("subtype")]
    with pytest.raises(ConfigError, match=r"\[\[train\]\], the 2\. of 2"):
        read_study(written(tmp_path, text.replace('["hcc", "cca"]', "7")))


TABLES = """
[study]
run = "{folder}/run"
cohort = ["{folder}/one.csv", "{folder}/two.csv"]
slides = "{slides}"

[tile]
[extract]
encoder = "test_resnet"
weights = "random"
device = "cpu"
"""
SLIDES = {"one": "CMU-1-Small-Region.svs", "two": "liver_glycogen_HE.tif"}


@pytest.fixture
def tables(tmp_path: Path, data_dir: Path) -> Path:
    for name, path in SLIDES.items():
        row = CohortSlide(slide_id=name, path=path, patient_id=f"P{name}", label="a", cohort=name,
                          mpp=None if path.endswith(".svs") else 0.5)  # fmt: skip
        write_cohort(tmp_path / f"{name}.csv", [row])
    return written(tmp_path, TABLES.format(folder=tmp_path, slides=data_dir / "slides"))


def test_several_cohort_tables_are_cut_into_one_run_folder(tables: Path) -> None:
    assert main([str(tables)]) == 0
    run = tables.parent / "run"
    assert [row.slide_id for row in read_cohort(run / "cohort.csv")] == ["one", "two"]
    assert {path.stem for path in (run / "features").glob("*/*.h5")} == {"one", "two"}
    assert main([str(tables)]) == 0


def test_tables_that_contradict_each_other_are_refused_before_the_first_slide(
    tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = tables.parent / "two.csv"
    second.write_text(second.read_text().replace("Ptwo", "Pone"))
    assert main([str(tables)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "two.csv: line 2: patient 'Pone' is in cohort 'two', but in 'one'" in said
    assert "one.csv: line 2" in said
    second.write_text(second.read_text().replace("Pone", "Ptwo").replace("two,", "one,", 1))
    assert main([str(tables)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "two.csv: line 2: slide 'one' differs from" in said
    assert "one.csv: line 2" in said
    assert not (tables.parent / "run" / "tiles").exists()
