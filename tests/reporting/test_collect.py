"""A run folder to a page, at every stage of completion."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from reporting.made import COUNTS, ENCODER, make_tiled
from sklearn.metrics import confusion_matrix, roc_auc_score

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.events import SlideDone, SlideFailed, SlideSkipped, StageStarted, Written
from wsi_pipeline.journal import Journal
from wsi_pipeline.pipeline.predict import PredictConfig
from wsi_pipeline.pipeline.predict import run as predict
from wsi_pipeline.pipeline.report import run
from wsi_pipeline.reporting import Limits, collect, render_page
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import flags_told
from wsi_pipeline.verbs.runs import ReportConfig


def test_an_empty_folder_gives_a_page(tmp_path: Path) -> None:
    data = collect(tmp_path)
    assert data.title == tmp_path.name
    assert not data.slides
    assert "<h1>" in render_page(data)


def test_after_tiling_alone(tmp_path: Path) -> None:
    data = collect(make_tiled(tmp_path / "run"), limits=Limits(slides=5, example_slides=6))
    assert data.title == "synthetic and synthetic-tma"
    assert data.synthetic
    assert not data.random_weights
    in_cohort, with_tiles = data.funnel.slides
    assert (in_cohort.count, with_tiles.count) == (27, 26)
    assert sum(in_cohort.lost.values()) == 1
    assert [step.count for step in data.funnel.tiles] == [26 * 9, 26 * 6, 26 * 4]
    assert sum(data.funnel.tiles[1].lost.values()) == 26 * COUNTS["rejected_background"]
    assert [(f.slide_id, f.stage) for f in data.failures] == [("normal-8", "tile")]
    assert len(data.slides) == 26
    assert [slide.slide_id for slide in data.slides if slide.shown] == [
        f"hcc-{n}" for n in range(5)
    ]
    assert "first 5 of 26" in data.notes[0]
    assert data.slides[0].flags == ("stain_not_he",)
    # examples are of different labels, one slide each; no slides folder, so nothing as scanned
    assert {pair.slide_id.split("-")[0] for pair in data.tiles} == {"hcc", "cca", "normal"}
    assert all(pair.before is None for pair in data.tiles)


def test_models_are_shown_as_stored(trained: Path) -> None:
    data = collect(trained)
    assert data.random_weights
    (model,) = data.models
    assert (model.primary, model.encoder, model.random_weights) == ("abmil", ENCODER, True)
    for evaluation in model.evaluations:
        if evaluation.scores is None:
            assert evaluation.level == "tile"
            continue
        scores = evaluation.scores
        assert len(scores.targets) == evaluation.cases
        found = confusion_matrix(scores.targets, scores.probabilities.argmax(1), labels=[0, 1, 2])
        assert (found == evaluation.confusion).all()
        for index, name in enumerate(evaluation.classes):
            own = scores.targets == index
            value = evaluation.measures[f"auroc/{name}"].value
            if value is not None:
                assert roc_auc_score(own, scores.probabilities[:, index]) == pytest.approx(
                    value, abs=1e-3
                )
    assert {(e.split, e.level) for e in model.evaluations} >= {
        ("test", "patient"), ("external", "slide"), ("external", "tile"), ("train", "slide")
    }  # fmt: skip
    card = next(card for card in data.slides if card.slide_id == "hcc-0")
    assert card.split in ("train", "val", "test")
    assert np.isclose(sum(card.predictions[0].probabilities.values()), 1, atol=1e-4)
    assert card.heatmaps[0].what == "attention of abmil"
    facts = {facts.title: dict(facts.rows) for facts in data.provenance}
    assert facts["Digests of the slides"]["hcc-0"] == "digest-hcc-0"
    assert facts["Tile stores, alike in all 26"]["config.mpp"] == "0.5"


def test_what_a_model_from_elsewhere_predicted_is_shown_and_a_damaged_table_named(
    trained: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(trained, tmp_path / "run")
    judged = {card.slide_id: card.predictions for card in collect(copy).slides}
    model = (copy / "models" / ENCODER).rename(tmp_path / ENCODER)
    (copy / "models").rmdir()
    drawn = {"heatmaps": False, "geojson": False, "device": "cpu"}
    list(predict(PredictConfig(run=copy, model=model, **drawn)))
    data = collect(copy)
    assert not data.models
    for card in data.slides:
        (said,) = card.predictions
        assert (said.bundle, said.model) == (ENCODER, "abmil")
        if said.split != "val":  # which training judged by a model that did not see them
            assert said.probabilities == pytest.approx(judged[card.slide_id][0].probabilities)
    page = render_page(data)
    assert f'<th scope="col">{ENCODER}</th>' in page
    row = RunFolder(copy).predicted_slides(ENCODER)
    row.write_text(row.read_text().replace("abmil,yes,hcc,0.", "abmil,yes,hcc,zero ", 1))
    (failed,) = [each for each in collect(copy).failures if each.stage == "predict"]
    assert "predict again" in failed.reason


def test_flagged_tiles_are_counted_by_flag() -> None:
    counts = {"counts": {"flagged_blood": 1042, "flagged_pen": 0, "kept": 2000}}
    assert flags_told({**counts, "flags": ["stain_not_he"]}) == ("stain_not_he", "1,042 blood")
    assert flags_told({}) == ()


def test_a_damaged_store_and_bundle_are_named(trained: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trained, tmp_path / "run")
    meta = copy / "tiles" / "cca-1.zarr" / "zarr.json"
    values = json.loads(meta.read_text())
    values["attributes"]["complete"] = False
    meta.write_text(json.dumps(values))
    assert "cca-1" in {failure.slide_id for failure in collect(copy).failures}
    (copy / "tiles" / "cca-1.zarr").rename(copy / "tiles" / "stranger.zarr")
    assert "1 tile stores have no row (stranger)" in collect(copy).notes[0]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", None, "metrics.json"),
        ("metrics.json", "{}", "metrics.json: 'evaluations' is required"),
        ("config.json", "{", "not a model bundle"),
        ("predictions.csv", "slide_id,slide_id\n", "column 'slide_id' stands twice"),
        ("splits.csv", "slide_id\na\n", "splits.csv: expected the columns"),
    ],
)
def test_one_broken_bundle_of_two_is_shown_as_broken(
    trained: Path, tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    copy = shutil.copytree(trained, tmp_path / "run")
    broken = shutil.copytree(copy / "models" / ENCODER, copy / "models" / "a-broken-one")
    (broken / file).unlink() if content is None else (broken / file).write_text(content)
    events = list(run(ReportConfig(run=copy)))
    (failed,) = [event for event in events if isinstance(event, SlideFailed)]
    assert failed.slide_id == "models/a-broken-one"
    assert message in failed.error
    page = (copy / "report" / "index.html").read_text("utf-8")
    assert "models/a-broken-one" in page
    data = collect(copy)
    assert [model.name for model in data.models] == [ENCODER]
    assert data.slides[0].predictions, "the whole one speaks for the slides"


def test_what_became_of_slides_comes_from_the_journal(tmp_path: Path) -> None:
    folder = RunFolder(make_tiled(tmp_path / "run"))
    assert "the journal does not say why" in collect(folder.root).failures[0].reason
    with Journal(folder.journal, "run") as journal:
        for event in (
            StageStarted(stage="tile", total=2),
            SlideSkipped(slide_id="normal-8", reason="no tissue", detail="all white"),
            SlideFailed(slide_id="hcc-0", error="was broken once"),
            SlideDone(slide_id="hcc-0"),
            StageStarted(stage="extract", total=1),
            SlideFailed(slide_id="cca-1", error="no memory"),
        ):
            journal.take(event)
    with folder.journal.open("a") as torn:
        torn.write('{"time": "2026-')
    found = {f.slide_id: (f.stage, f.fate, f.reason) for f in collect(folder.root).failures}
    assert found == {
        "normal-8": ("tile", "skipped", "no tissue: all white"),
        "cca-1": ("extract", "failed", "no memory"),
    }


def test_the_stage_writes_the_same_page_twice(trained: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("one.html", "two.html"):
        events = list(
            run(ReportConfig(run=trained, out=tmp_path / name, title="A <b> study", max_slides=2))
        )
        assert isinstance(events[-1], Written)
        pages.append((tmp_path / name).read_text("utf-8"))
    assert pages[0] == pages[1]
    assert "A &lt;b&gt; study" in pages[0]
    assert list(run(ReportConfig(run=trained, dry_run=True)))[-1]
    assert not (trained / "report").exists()
    with pytest.raises(ConfigError, match="no such run folder"):
        list(run(ReportConfig(run=tmp_path / "nowhere")))
