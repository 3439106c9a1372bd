"""A dry run's budget: amounts by the files' sizes, hours by the machines, cost by given prices."""

from pathlib import Path

import pytest

from wsi_pipeline.cli import main
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.events import Event, Note, Planned, StageStarted
from wsi_pipeline.pipeline import run as study_stage
from wsi_pipeline.verbs.runs import RunConfig

MANIFEST = Path("manifests/gdc_tcga_liver.txt").absolute()
STUDY = """
[study]
run = "run"
[download]
manifest = "{manifest}"
out = "slides"
max_mb_per_s = 100
[tile]
cohort = "cohort.csv"
slides = "slides"
codec = "jpeg"
[extract]
dtype = "float16"
"""
MACHINES = {"machines": 5, "cores": 8}
PRICES = {"price_core_hour": 0.5, "price_gb_month": 0.25, "price_gb_out": 2.0, "months": 4}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "study.toml"
    path.write_text(STUDY.format(manifest=MANIFEST))
    (tmp_path / "cohort.csv").write_text("slide_id,path,patient_id,label,cohort\na,a.svs,p,hcc,x\n")
    return path


def events_of(study: Path, **how: object) -> list[Event]:
    config = RunConfig.from_mapping({"study": study, "dry_run": True, **how}, "test")
    return list(study_stage.run(config))


def table(events: list[Event]) -> dict[str, dict[str, float]]:
    """Return the budget's rows by stage, in numbers."""
    begun = next(i for i, e in enumerate(events) if isinstance(e, StageStarted)
                 and e.stage == "budget")  # fmt: skip
    return {
        str(event.row["stage"]): {
            name: 0.0 if cell in (None, "–") else float(str(cell).replace(",", ""))
            for name, cell in event.row.items()
            if name != "stage"
        }
        for event in events[begun:]
        if isinstance(event, Planned)
    }


def test_amounts_hours_and_cost_follow_from_what_is_given(study: Path) -> None:
    slide_bytes = sum(int(line.split("\t")[3]) for line in MANIFEST.read_text().splitlines()[1:])
    tiles = slide_bytes / 1e6 * 15
    rows = table(events_of(study, **MACHINES, **PRICES))
    assert list(rows) == ["download", "tile", "extract", "kept, 4 months", "results fetched",
                          "in all"]  # fmt: skip
    near = pytest.approx
    assert rows["download"]["h by the clock"] == near(slide_bytes / 100e6 / 3600, rel=0.05)
    assert rows["tile"]["core h"] == near(tiles / 150 / 3600, rel=0.05)
    assert rows["tile"]["h by the clock"] == near(tiles / 150 / 3600 / 40, rel=0.05)
    assert rows["tile"]["written GB"] == near(tiles * 35e3 / 1e9, rel=0.05)
    assert rows["extract"]["core h"] == near(tiles / 10 / 3600, rel=0.05)
    assert rows["extract"]["written GB"] == near(tiles * 1024 * 2 / 1e9, rel=0.05)
    kept = slide_bytes / 1e9 + tiles * (35e3 + 2048) / 1e9
    assert rows["kept, 4 months"]["cost"] == near(kept * 4 * 0.25, abs=0.01)
    assert rows["results fetched"]["cost"] == near(tiles * 2048 / 1e9 * 2.0, abs=0.01)
    parts = [row["cost"] for name, row in rows.items() if name != "in all"]
    assert rows["in all"]["cost"] == near(sum(parts), abs=0.05)


def test_gpus_take_the_encoding(study: Path) -> None:
    without = table(events_of(study, **MACHINES))
    gpus = {"gpus": 2, "gpu_tiles_per_s": 1000.0, "price_gpu_hour": 3.0}
    rows = table(events_of(study, **MACHINES, **gpus))
    hours = without["extract"]["core h"] * 10 / 1000
    assert rows["extract"]["GPU h"] == pytest.approx(hours, rel=0.05)
    assert rows["extract"]["h by the clock"] == pytest.approx(hours / 2, rel=0.05)
    assert rows["extract"]["cost"] == pytest.approx(hours * 3.0, abs=0.01)


def test_no_price_is_made_up(study: Path) -> None:
    rows = table(events_of(study, **MACHINES))
    assert all(row["cost"] == 0 for row in rows.values())
    notes = [event.text for event in events_of(study, **MACHINES) if isinstance(event, Note)]
    (said,) = [text for text in notes if text.startswith("prices: ")]
    assert said == (
        "prices: none given, in your own currency; without a price, and left out: core hour, "
        "GPU hour, GB and month, GB fetched"
    )
    assert not [e for e in events_of(study) if isinstance(e, StageStarted) and e.stage == "budget"]


def test_what_does_not_go_together_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(study), "--machines", "3"]) == 2
    assert "machines and prices go with --dry-run" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no speed of a GPU was measured here"):
        RunConfig.from_mapping({"study": study, "dry_run": True, "gpus": 2}, "test")
