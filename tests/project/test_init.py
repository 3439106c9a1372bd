"""``wsi init`` writes a study that can be run as it stands."""

from pathlib import Path

import pytest

from wsi_pipeline.init import main
from wsi_pipeline.pipeline.study_file import read_study

ROOT = Path(__file__).parents[2]


def test_a_study_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["liver", f"--folder={tmp_path / 'study'}"]) == 0
    monkeypatch.chdir(tmp_path / "study")
    plan = read_study(Path("liver.toml"))
    assert [verb.name for verb, _ in plan] == [
        *("download", "tile", "extract", "train", "predict", "report"),
    ]
    assert plan[0][1].query.is_file()
    assert Path("liver.toml").read_text() == (ROOT / "stages" / "liver_gdc.toml").read_text()


def test_what_is_there_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "liver.toml"
    own.write_text("mine")
    assert main(["liver", f"--folder={tmp_path}"]) == 2
    assert "liver.toml would be written over" in capsys.readouterr().err
    assert own.read_text() == "mine"
    assert main(["liver", f"--folder={tmp_path}", "--overwrite"]) == 0
    assert own.read_text() != "mine"


def test_a_study_that_is_not_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["livre"]) == 2
    assert "there is no study 'livre'; did you mean 'liver'?" in capsys.readouterr().err


def test_what_an_interrupted_call_left_is_gone_on_from(tmp_path: Path) -> None:
    assert main(["liver", f"--folder={tmp_path}"]) == 0
    (tmp_path / "manifests" / "liver.csv").unlink()
    assert main(["liver", f"--folder={tmp_path}"]) == 0
    assert (tmp_path / "manifests" / "liver.csv").is_file()
    (tmp_path / "liver.toml").unlink()
    (tmp_path / "liver.toml").mkdir()
    assert main(["liver", f"--folder={tmp_path}"]) == 2
