"""An array in doubt goes no further in a study, until a person has looked; lost cores never do."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_pipeline.cli import main
from wsi_pipeline.pipeline.resolve_cohort import resolve_cohort
from wsi_pipeline.verbs.tiles import TileConfig


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full 3 × 4 array, which its map fits four ways, beside a plain slide; A1 is nearly lost."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(2)
    picture = np.full((480, 640, 3), 243, np.uint8)
    lines = ["row,column,core_id,patient_id,label"]
    for row, letter in enumerate("ABC"):
        for column in range(4):
            lines.append(f"{letter},{column + 1},T-{letter}{column + 1},P{column},hcc")
            centre = (100 + 140 * column, 90 + 140 * row)
            cv2.circle(picture, centre, 45, (170, 110, 190), -1)
    cv2.circle(picture, (100, 90), 46, (243, 243, 243), -1)
    cv2.ellipse(picture, (100, 90), (30, 20), 0, 0, 360, (170, 110, 190), -1)
    noisy = np.clip(picture + rng.integers(-8, 8, picture.shape), 0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / "tma.png"), noisy)
    cv2.imwrite(str(folder / "plain.png"), noisy[:, :300])
    (folder / "map.csv").write_text("\n".join(lines) + "\n")
    (folder / "cohort.csv").write_text(
        "slide_id,path,patient_id,label,cohort,tma_map\n"
        "tma,tma.png,,,x,map.csv\nplain,plain.png,P9,hcc,x,\n"
    )
    (folder / "study.toml").write_text(
        f'[study]\nrun = "{folder}/run"\nslides = "{folder}"\ndevice = "cpu"\n'
        f'[tile]\ncohort = "{folder}/cohort.csv"\ntile_px = 32\nmpp = 8\nmpp_override = 8\n'
        '[extract]\nencoder = "test_resnet"\nweights = "random"\n'
    )
    return folder


def cores(table: Path) -> dict[str, dict[str, str]]:
    return {row["core_id"]: row for row in csv.DictReader(table.open())}


def test_no_stage_uses_an_array_in_doubt(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = study / "run"
    assert main(["run", str(study / "study.toml")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "tma will not be used: the core map" in said, "before the first slide"
    assert "hardly better" in said
    assert "--accept" in said
    tiled = sorted(path.stem for path in (run / "tiles").iterdir() if path.suffix != ".json")
    assert tiled == ["plain"]
    features = sorted(path.stem for path in (run / "features").rglob("*.h5"))
    assert features == ["plain"]
    assert "T-B2" not in (run / "cohort.csv").read_text()
    # training is refused: there is one patient, and the array's are not among them
    assert main(["train", str(run), "--encoder", "test_resnet", "--device", "cpu"]) != 0
    assert not list(run.glob("models/*/predictions.csv"))
    told = capsys.readouterr()
    assert "T-B2" not in told.out + told.err
    accepted = ["cores", str(study / "tma.png"), "--map", str(study / "map.csv"),
                "--preview", str(run / "cores" / "tma.jpg"), "--accept"]  # fmt: skip
    assert main(accepted) == 0
    assert main(["run", str(study / "study.toml")]) == 0
    features = sorted(path.stem for path in (run / "features").rglob("*.h5"))
    assert "T-B2" in features
    # another slide under the same name is not what was accepted
    other = cv2.imread(str(study / "tma.png"))
    cv2.imwrite(str(study / "tma.png"), np.ascontiguousarray(other[::-1, ::-1]))
    try:
        assert main(["run", str(study / "study.toml")]) == 1
    finally:
        cv2.imwrite(str(study / "tma.png"), other)
    assert "not the file that" in " ".join(capsys.readouterr().out.split())


def test_what_a_table_tells_since_outweighs_cores_in_doubt(study: Path, tmp_path: Path) -> None:
    told = study / "told.csv"
    head, row, *_ = (study / "cohort.csv").read_text().splitlines()
    told.write_text(f"{head},tma_lies\n{row},as-scanned\n")
    asked = {"run": tmp_path / "run", "slides": study, "mpp": 8, "mpp_override": 8, "tile_px": 32}
    before, after = (resolve_cohort(TileConfig(cohort=cohort, **asked))
                     for cohort in (study / "cohort.csv", told))  # fmt: skip
    assert before.failed == 1
    assert [slide.slide_id for slide in before.slides] == ["plain"]
    assert after.failed == 0
    assert len(after.slides) == 12


def test_cores_with_little_tissue_are_lost(study: Path, tmp_path: Path) -> None:
    asked = ["cores", str(study / "tma.png"), "--map", str(study / "map.csv"), "--lies",
             "as-scanned", "--preview", str(tmp_path / "p.jpg"), "--overwrite"]  # fmt: skip
    assert main(asked) == 0
    found = cores(tmp_path / "p.csv")
    assert found["T-A1"]["status"] == ""
    share = float(found["T-A1"]["tissue"])
    assert share == pytest.approx(30 * 20 / 45**2, abs=0.08)
    assert main([*asked, "--min-core-tissue", "0.5"]) == 0
    found = cores(tmp_path / "p.csv")
    assert [name for name, row in found.items() if row["status"] == "lost"] == ["T-A1"]
