"""The compare verb: one table and one figure, whatever becomes of single encoders."""

import csv
import json
from pathlib import Path

import pytest
from finetune_images import PATTERN, write_images, write_run

from wsi_pipeline.compare import main
from wsi_pipeline.learn import holm
from wsi_pipeline.reporting import Measure
from wsi_pipeline.reporting.comparison import (
    ORIGINAL,
    Comparison,
    EncoderResult,
    comparison_csv,
    comparison_page,
    to_markdown,
)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    write_images(tmp_path / "in", range(6))
    write_images(tmp_path / "out", range(20, 22))
    path = tmp_path / "compare.toml"
    path.write_text(
        f"""
[compare]
run = "{tmp_path / "run"}"
title = "Stripes"
encoders = ["test_resnet", "test_vit", "test_efficientnet"]
default_weights = "random"
weights = {{ test_vit = "{tmp_path / "lost.safetensors"}" }}
synthetic = true

[finetune]
images = "{tmp_path / "in"}"
external_images = "{tmp_path / "out"}"
patient_pattern = '{PATTERN}'
input_px = 32
epochs = 1
warmup_epochs = 0
batch = 16
resamples = 100
accept_risk = "stripes are alike"
"""
    )
    return path


def table(run: Path) -> dict[str, dict[str, str]]:
    return {row["encoder"]: row for row in csv.DictReader((run / "comparison/table.csv").open())}


def test_one_table_one_figure_and_a_failure_costs_itself(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(plan), "--only=test_resnet"]) == 0
    run = tmp_path / "run"
    first = table(run)
    assert first["test_resnet"]["test_accuracy"]
    assert first["test_efficientnet"]["remark"].startswith("not run")
    written = (run / "finetuned/test_resnet/model.safetensors").stat().st_mtime_ns
    capsys.readouterr()

    assert main([str(plan)]) == 1
    said = capsys.readouterr().out
    assert "test_vit" in said
    assert "lost.safetensors" in "".join(said.split())
    assert (run / "finetuned/test_resnet/model.safetensors").stat().st_mtime_ns == written
    found = table(run)
    assert list(found) == ["test_resnet", "test_vit", "test_efficientnet"]
    assert "lost.safetensors" in found["test_vit"]["remark"]
    for name in ("test_resnet", "test_efficientnet"):
        row = found[name]
        for part in ("train", "val", "test", "external"):
            assert 0 <= float(row[f"{part}_low"]) <= float(row[f"{part}_high"]) <= 1
            assert int(row[f"{part}_patients"]) > 0
        assert float(row["tiles_per_second"]) > 0
        assert int(row["parameters"]) > 5e4
        assert "random weights" in row["remark"]
    splits = [
        json.loads((run / "finetuned" / name / "config.json").read_text())["digests"]["identity"]
        for name in ("test_resnet", "test_efficientnet")
    ]
    assert splits[0]["splits"] == splits[1]["splits"], "the same patients for all"
    page = (run / "comparison/index.html").read_text()
    assert "98.21 %" in page
    pairs = json.loads((run / "comparison/pairs.json").read_text())
    assert [(pair["split"], pair["measure"]) for pair in pairs] == [
        (split, measure)
        for split in ("test", "external")
        for measure in ("accuracy", "balanced_accuracy", "auroc")
    ]
    accuracy = {
        name: json.loads((run / "finetuned" / name / "metrics.json").read_text())["evaluations"]
        for name in ("test_resnet", "test_efficientnet")
    }
    for pair in pairs:
        one, two = (
            next(
                each["measures"][pair["measure"]]["value"]
                for each in accuracy[pair[which]]
                if (each["split"], each["level"]) == (pair["split"], "slide")
            )
            for which in ("first", "second")
        )
        assert pair["value"] == pytest.approx(one - two, abs=1e-5)
        assert pair["low"] <= pair["value"] <= pair["high"]
        assert 0 < pair["p"] <= pair["p_holm"] <= 1
    order = [page.index(title) for title in ("Verdict", "Two by two", "<img")]
    assert order == sorted(order), "what passes and what differs stands above the picture"
    assert "## Two by two" in (run / "comparison/table.md").read_text()
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://matplotlib", "")
    assert "<svg" in (run / "comparison/figure.svg").read_text()
    assert "| DenseNet121 | 98.21 % | 98 % | 96 % |" in (run / "comparison/table.md").read_text()


def test_holm_as_published() -> None:
    """Holm's procedure by hand: 0.01·4, 0.015·3, 0.03·2, then never below the one before."""
    ps = [0.03, 0.01, None, 0.04, 0.015]
    assert holm(ps) == pytest.approx([0.06, 0.04, None, 0.06, 0.045])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]


def test_an_unknown_encoder_ends_it_before_any_is_trained(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(plan, plan.read_text().replace('"test_vit",', '"no_such_net",'))
    assert main([str(plan)]) == 2
    assert "timm has no such model" in capsys.readouterr().err
    assert not (tmp_path / "run" / "finetuned").exists()


def test_features_of_frozen_encoders_are_compared_too(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = plan.read_text().split("[finetune]")[0]
    assert main([str(write(plan, text))]) == 2
    assert "either [finetune], or [extract] and [train]" in capsys.readouterr().err
    assert main([str(write(plan, text + "[finetune]\nepoch = 3\n"))]) == 2
    assert "unknown setting 'epoch'" in capsys.readouterr().err
    write_run(tmp_path / "run")
    frozen = (
        text.replace('"test_vit", ', "")
        + '[extract]\n[train]\nepochs = 2\naccept_risk = "stripes are alike"\n'
    )
    assert main([str(write(plan, frozen + 'external = "tma"\nresamples = 100\n'))]) == 0
    found = table(tmp_path / "run")
    assert found["test_resnet"]["weights"] == "test_resnet.random-seed0"
    assert float(found["test_efficientnet"]["tiles_per_second"]) > 0
    assert found["test_efficientnet"]["external_patients"] == "2"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def result(low: float, high: float = 1.0, value: float = 0.98, **more: object) -> EncoderResult:
    measures = {"test": Measure(value=value, low=low, high=high)}
    return EncoderResult(
        encoder="densenet121", weights="densenet121.ra_in1k", accuracy=measures,
        patients={"test": 12}, parameters=7_000_000, tiles_per_second=40.0, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_lower_bound_decides() -> None:
    assert result(0.961).passes(0.96) is True
    assert result(0.959).passes(0.96) is False
    assert EncoderResult(encoder="vgg16", error="no weights").passes(0.96) is None
    both = result(0.97)
    both.accuracy["external"] = Measure(value=0.97, low=0.9, high=1.0)
    assert both.passes(0.96) is False, "every held-out part counts"


def test_all_right_is_a_reason_to_look_for_leakage() -> None:
    assert "look for leakage" in result(0.75, value=1.0).remark()
    assert "12 test patients" in result(0.75, value=1.0).remark()
    assert result(0.9).remark() == ""


def test_the_original_study_stands_beside_it() -> None:
    comparison = Comparison(title="T", results=(result(0.97), result(0.5)), required=0.96)
    text = to_markdown(comparison)
    for row in ORIGINAL:
        assert row.name in text
    assert "pass" in text
    assert "fail" in text
    assert "synthetic" not in text
    rows = list(csv.DictReader(comparison_csv(comparison).splitlines()))
    assert rows[0]["passes"] == "True"
    assert rows[0]["external_accuracy"] == ""
    assert "ResNet150" in comparison_page(comparison)
