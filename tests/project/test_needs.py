"""A study is looked at as a whole before its first stage begins, and planned as a whole."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from wsi_pipeline.cohort import CohortSlide, read_cohort, write_cohort
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.pipeline.compare import read_plan
from wsi_pipeline.pipeline.needs import check_external, check_needs
from wsi_pipeline.pipeline.study_file import read_study
from wsi_pipeline.run import main

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.name for path in (ROOT / "stages").glob("liver*.toml"))
STUDY = """
[study]
run = "{folder}/run"
cohort = "{folder}/cohort.csv"
slides = "{slides}"
encoder = "densenet121"
{download}
[tile]
[extract]
[audit]
[train]
[predict]
[report]
"""


@pytest.fixture
def study(tmp_path: Path, data_dir: Path) -> Path:
    """A study of one real slide under two names, from a table to the report."""
    rows = [
        CohortSlide(
            slide_id=slide_id,
            path="CMU-1-Small-Region.svs",
            patient_id=f"p-{slide_id}",
            label=label,
            cohort="c",
        )
        for slide_id, label in (("small", "hcc"), ("again", "cca"))
    ]
    write_cohort(tmp_path / "cohort.csv", rows)
    path = tmp_path / "study.toml"
    text = STUDY.format(folder=tmp_path, slides=data_dir / "slides", download="")
    path.write_text(text)
    return path


def test_a_dry_run_plans_the_whole_study(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ended in extract's refusal, for there were no tiles yet."""
    assert main([str(study), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "CMU" in said or "small" in said
    for stage, maker in {
        "extract": "tile",
        "audit": "extract",
        "train": "extract",
        "predict": "extract",
        "report": "tile",
    }.items():
        assert f"{stage}: can be planned once {maker} has made" in said
    told = re.findall(r"(\w+): about ([\d,]+) tiles, ([\d,]+) MB, (.+) GB of memory", said)
    assert [stage for stage, *_ in told] == [
        "tile",
        "extract",
        "audit",
        "train",
        "predict",
        "report",
    ]
    assert len({tiles for _, tiles, *_ in told} - {"0"}) == 1
    whole = re.search(r"the whole study \(tile, .*report\): .+, ([\d,]+) MB on disk, .+ GB", said)
    assert whole
    summed = sum(int(megabytes.replace(",", "")) for _, _, megabytes, _ in told)
    assert abs(int(whole[1].replace(",", "")) - summed) <= len(told)
    assert "150 tiles a second" in said, "the constants are named"
    assert "10 tiles a second and core" in said
    assert not (study.parent / "run").exists()


def test_what_no_stage_makes_is_refused_before_the_first_begins(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.write_text(study.read_text().replace("[extract]\n", ""))
    assert main([str(study)]) == 2
    said = capsys.readouterr().err
    assert "[audit] needs" in said
    assert "no stage of this study before it makes it; nothing was begun" in said
    assert not (study.parent / "run" / "tiles").exists()


def test_a_table_that_download_makes_need_not_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest is missing, and that is what is said; the table and the slides are to come."""
    download = f'[download]\nmanifest = "{tmp_path}/lost.txt"\nout = "{tmp_path}/slides"\n'
    path = tmp_path / "study.toml"
    text = STUDY.format(folder=tmp_path, slides=tmp_path / "slides", download=download)
    path.write_text(text)
    assert main([str(path), "--dry-run"]) == 2
    assert "[tile] needs" in capsys.readouterr().err
    query = f'query = "q.toml"\ncohort_out = "{tmp_path}/cohort.csv"\n'
    path.write_text(text.replace(f'manifest = "{tmp_path}/lost.txt"\n', query))
    assert main([str(path), "--dry-run"]) == 2
    assert "[download] needs q.toml" in capsys.readouterr().err


def test_a_stage_alone_needs_what_is_there(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(study), "--only=extract"]) == 2
    assert "[extract] needs" in capsys.readouterr().err


UNLIKE = ("xxxx.xx", "xxxxxx.", "xxx.xxx", "xxxxxxx", ".xxxxx.")  # any other way lies elsewhere


def core_map(places: Sequence[str]) -> str:
    """A map with a core wherever there is an x."""
    cores = [
        f"{letter},{column},{letter}{column},p{letter}{column},{('hcc', 'normal')[column % 2]}\n"
        for letter, line in zip("ABCDEFGH", places, strict=False)
        for column, place in enumerate(line, start=1)
        if place == "x"
    ]
    return "".join(["row,column,core_id,patient_id,label\n", *cores])


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped files, a run folder of none, and a file for each slide and core map."""
    for name in ("stages", "manifests"):
        (tmp_path / name).symlink_to(ROOT / name)
    for table in (ROOT / "manifests").glob("*.csv"):
        for row in read_cohort(table):
            for name in filter(None, (row.path, row.tma_map)):
                (tmp_path / "slides" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "slides" / name).touch()
            if row.tma_map:
                (tmp_path / "slides" / row.tma_map).write_text(core_map(UNLIKE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_study_has_what_it_needs(clone: Path, name: str) -> None:
    """Four stage files named an external cohort that was in no table."""
    path = Path("stages", name)
    check_needs(read_study(path), path)


def test_the_shipped_stages_ask_for_no_other_cohort_than_their_table_has(clone: Path) -> None:
    cohorts = {row.cohort for row in read_cohort(Path("manifests/liver.csv"))}
    assert cohorts == {"tcga"}
    for name in ("train", "finetune"):
        assert "\nexternal" not in Path("stages", f"{name}.toml").read_text()
    assert "external" not in read_plan(Path("stages/compare.toml")).stages["finetune"]


def test_an_array_that_is_not_there_is_missed_before_the_first_slide(clone: Path) -> None:
    path = Path("stages/liver_tma.toml")
    for gone in ("slides/tma/TMA1.csv", "slides/tma/TMA1.svs"):
        (clone / gone).unlink()
        with pytest.raises(ConfigError, match=f"none of its slides can be used: no .*{gone}"):
            check_needs(read_study(path), path)


def test_an_array_that_cannot_tell_how_it_lies_is_missed_before_the_first_slide(
    clone: Path,
) -> None:
    """A night of tiling went by before the array was refused, which the map had said all along."""
    path, mapped = Path("stages/liver_tma.toml"), clone / "slides" / "tma" / "TMA1.csv"
    for places in (("xxxx",) * 3, ("xxxxxxxxxx",) * 10, (*("xxxx",) * 3, "xxx.")):
        mapped.write_text(core_map(places))
        with pytest.raises(ConfigError, match="none of its slides can be used") as refused:
            check_needs(read_study(path), path)
        assert "has all but the same pattern turned by 180°" in str(refused.value)
        assert "column tma_lies of manifests/tma.csv" in str(refused.value)
    table = (ROOT / "manifests" / "tma.csv").read_text().rstrip("\n")
    (clone / "manifests").unlink()
    shutil.copytree(ROOT / "manifests", clone / "manifests")
    (clone / "manifests" / "tma.csv").write_text(f"{table}as-scanned\n")
    check_needs(read_study(path), path)


def test_an_external_cohort_that_no_row_is_of_is_missed_before_the_first_slide(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.write_text(study.read_text().replace("[train]", '[train]\nexternal = "tma"'))
    assert main([str(study)]) == 2
    said = capsys.readouterr().err
    assert (
        "no row of the cohort table is of it (its column cohort has c); nothing was begun" in said
    )
    assert not (study.parent / "run" / "tiles").exists()
    with pytest.raises(ConfigError, match="external = 'tma'"):
        check_external(read_study(study), study)
