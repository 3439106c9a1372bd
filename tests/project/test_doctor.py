"""``wsi doctor`` and ``wsi encoders``: what was asked for and does not work fails."""

import json
from pathlib import Path

import pytest

from wsi_pipeline.cli import main
from wsi_pipeline.features import PUBLISHED


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def test_a_healthy_machine_takes_a_made_slide_to_features(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--device=cpu"]) == 0
    said = capsys.readouterr().out
    for told in (
        "python: 3.",
        "torch 2.",
        "OpenSlide 4",
        "writes",
        "does not answer",
        "gated: uni",
    ):
        assert told in said
    assert "tiles of a made slide" in said
    assert "96 wide" in said
    assert not list(Path.cwd().glob(".doctor*")), "nothing is left behind"


def test_an_encoder_that_was_asked_for_and_is_not_here_fails_with_its_two_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--device=cpu", "--no-selftest", "--encoder=h-optimus-0,phikon-v2"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "https://huggingface.co/bioptimus/H-optimus-0" in said
    pin = PUBLISHED["h-optimus-0"].revision
    assert f"'hf auth login' and 'hf download bioptimus/H-optimus-0 --revision {pin}'" in said
    assert f"hf download owkin/phikon-v2 --revision {PUBLISHED['phikon-v2'].revision}" in said


def test_a_device_that_is_not_there_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--no-selftest", "--device=cuda:7"]) == 1
    assert "cuda:7: not available" in " ".join(capsys.readouterr().out.split())


def test_encoders_are_listed_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encoders"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in PUBLISHED)
    assert main(["encoders", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(PUBLISHED)
    assert next(row for row in rows if row["name"] == "uni2-h")["state"] == "gated"
