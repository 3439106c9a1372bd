"""Every verb: flags and TOML say the same, a flag wins, mistakes are sentences with status 2."""

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from base.toy import CutConfig

from wsi_pipeline import verbs
from wsi_pipeline.cli import command, main, parse
from wsi_pipeline.errors import ConfigError, SlideOpenError, UsageError
from wsi_pipeline.events import Event, SlideDone, SlideFailed, StageStarted
from wsi_pipeline.settings import StageConfig, digest
from wsi_pipeline.verbs import Verb

CUT = Verb(CutConfig)


@pytest.fixture
def with_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy stage, which enters by the one table."""
    groups = verbs.GROUPS | {"toys": (CutConfig,)}
    monkeypatch.setattr(verbs, "GROUPS", groups)
    monkeypatch.setattr(verbs, "VERBS", verbs.table_of(itertools.chain(*groups.values())))


def test_flags_file_and_precedence(tmp_path: Path) -> None:
    file = tmp_path / "cut.toml"
    file.write_text('slides = "a"\nout = "b"\nmpp = 0.3\n')
    assert parse(CUT, ["--config", str(file)]) == CutConfig(
        slides=Path("a"), out=Path("b"), mpp=0.3
    )
    assert parse(CUT, ["x", "--mpp", "0.25", "--config", str(file)]) == CutConfig(
        slides=Path("x"), out=Path("b"), mpp=0.25
    )


def test_mistakes_are_named(tmp_path: Path) -> None:
    file = tmp_path / "cut.toml"
    file.write_text("mmp = 0.3\n")
    with pytest.raises(ConfigError, match=r"cut\.toml: unknown setting 'mmp'; did you mean 'mpp'"):
        parse(CUT, ["x", "--config", str(file)])
    with pytest.raises(ConfigError, match=r"'mpp': Input should be greater than 0 \(found '-1'\)"):
        parse(CUT, ["x", "--out", "y", "--mpp", "-1"])
    with pytest.raises(ConfigError, match="'out' is required"):
        parse(CUT, ["x"])
    with pytest.raises(ConfigError, match="no such settings file"):
        parse(CUT, ["x", "--config", "nowhere.toml"])


def test_identity_leaves_out_how() -> None:
    one = CutConfig(slides=Path("a"), out=Path("b"), workers=3)
    two = CutConfig(slides=Path("a"), out=Path("c"), dry_run=True)
    assert (
        one.identity() == two.identity() == {"slides": "a", "mpp": 0.5, "several": [], "keep": True}
    )
    assert digest(one.identity()) != digest(CutConfig(slides=Path("b"), out=Path("b")).identity())


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, 0), ("slide", 1), (SlideOpenError("gone"), 1), (UsageError("no"), 2)],
)
def test_exit_status(
    error: object,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(_self: Verb, _config: StageConfig) -> Iterator[Event]:
        yield StageStarted(stage="cut", total=2)
        yield SlideDone(slide_id="a", counts={"tiles kept": 1200})
        if isinstance(error, Exception):
            raise error
        if error:
            yield SlideFailed(slide_id="b", error="b.svs: truncated")

    monkeypatch.setattr(Verb, "run", run)
    assert command(CUT, ["x", "--out", "y"]) == status
    out, err = capsys.readouterr()
    assert "a: done" in out
    assert "Traceback" not in out + err
    if error == "slide":
        assert "failed b: b.svs: truncated" in out
        assert "1,200" in out


def test_lists_and_switches_on_the_command_line(tmp_path: Path) -> None:
    """Several with commas, the flag again, or as in TOML; a switch can be turned back."""
    for words in (
        ["--several", "a,b c"],
        ["--several", "a", "--several=b c"],
        ["--several", '[a,"b c"]'],
    ):
        assert parse(CUT, ["x", "--out", "y", *words]).several == ("a", "b c")
    file = tmp_path / "cut.toml"
    file.write_text('slides = "a"\nout = "b"\nseveral = ["a"]\nkeep = false\ndry_run = true\n')
    config = ["--config", str(file)]
    assert (parse(CUT, config).keep, parse(CUT, config).dry_run) == (False, True)
    again = parse(CUT, [*config, "--keep", "--no-dry-run", "--several", ""])
    assert (again.keep, again.dry_run, again.several) == (True, False, ())


def test_what_is_no_flag_is_met_with_the_nearest() -> None:
    for words, message in (
        (["x", "--mmp", "1"], "no flag --mmp; did you mean --mpp"),
        (["x", "--zzz"], "no flag --zzz; see --help"),
        (["x", "y"], "'y' stands alone"),
        (["x", "--mpp"], "--mpp: expected one argument"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse(CUT, words)


def test_a_stage_enters_by_the_table(
    with_cut: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One entry: `wsi cut`, the list of verbs, its help and `[cut]` in a study know it."""
    assert main([]) == 0
    assert "  cut               Cut something." in capsys.readouterr().out
    assert main(["cut", "x", "--out", "y", "--mpp", "0.25"]) == 0
    assert "x: done" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["cut", "--help"])
    assert end.value.code == 0
    assert "--mpp µm/px" in capsys.readouterr().out
    study = tmp_path / "study.toml"
    (tmp_path / "x").touch()
    study.write_text(f"[cut]\nslides = '{tmp_path / 'x'}'\nout = 'y'\n")
    assert main(["run", str(study)]) == 0
    assert "x: done" in capsys.readouterr().out


def test_the_door(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("wsi_pipeline 0.")
    assert main(["tail"]) == 2
    assert "no verb 'tail'; did you mean 'tile'?" in capsys.readouterr().err
    assert main(["import-features"]) == 2
    assert "'source' is required" in capsys.readouterr().err
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name}" in listed for name in verbs.VERBS)


def test_help_shows_what_a_reader_needs(capsys: pytest.CaptureFixture[str]) -> None:
    """Own settings first, by topic; choices and units; no noise; an example at the end."""
    for name in verbs.VERBS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        text = capsys.readouterr().out
        assert not [noise for noise in ("list[", "tuple[", "None", "--no-dry-run") if noise in text]
        own, machine, example = (
            text.index(f"\n{t}:")
            for t in (text.split("\n\n")[2].split(":")[0], "how the work is done", "example")
        )
        assert own < machine < text.index("--workers N") < text.index("--config FILE") < example
        assert verbs.VERBS[name].config_class.example in text
    with pytest.raises(SystemExit):
        main(["tile", "--help"])
    text = capsys.readouterr().out
    topics = [
        "what and where",
        "resolution and grid",
        "tissue and annotations",
        "pixels and stain",
        "rules",
        "files",
        "slides on a share",
        "when a slide is given up",
        "more machines than one",
        "run folders in a bucket",
        "how the work is done",
    ]
    assert [
        line[:-1] for line in text.splitlines() if line.endswith(":") and line[:1].isalpha()
    ] == [*topics, "example"]
    for shown in (
        "COHORT --run DIR [options]",
        "--mpp µm/px",
        "--store {zarr,hdf5}",
        "--tile-px px",
        "--stain {macenko,",
        "--no-annotated-only",
        "--drop-flagged {pen,",
        "(0.125)",
    ):
        assert shown in text


@pytest.mark.parametrize("name", list(verbs.VERBS))
def test_every_example_parses(name: str) -> None:
    verb = verbs.VERBS[name]
    assert isinstance(parse(verb, verb.config_class.example.split()), verb.config_class)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("extract r --device cudda", "no device 'cudda'; did you mean 'cuda'?"),
        ("extract r --device cuda:", "no device 'cuda:'"),
        ("extract r --kernels openvno", "did you mean 'openvino'?"),
        ("extract r --precision fp8", "no choice 'fp8'"),
        ("extract r --encoder densnet121", "did you mean densenet121"),
        ("extract r --encoder nowhere:make", "cannot import it"),
        ("cores x.svs --preview p.png --reader opnslide", "did you mean 'openslide'?"),
        ("qc r --drop blod", "no tile flag 'blod'; did you mean 'blood'?"),
        ("export r --layout calm", "did you mean 'clam'?"),
        ("download --resolve lastest", "did you mean 'latest'?"),
    ],
)
def test_a_wrong_word_is_met_with_the_right_one(
    words: str,
    answer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    assert answer in capsys.readouterr().err


def test_a_shell_completes_verbs_flags_and_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--completion", "bash"]) == 0
    script = tmp_path / "wsi.bash"
    script.write_text(capsys.readouterr().out)

    def completed(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in ("wsi", *words))
        place = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}"
        ask = f"source {script}; {place}; _shtab_wsi; echo ${{COMPREPLY[*]}}"
        told = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
        return told.stdout.split()

    assert completed("ext") == ["extract"]
    assert "--tissue-method" in completed("tile", "--tis")
    assert "density" in completed("tile", "--tissue-method", "")
    assert main(["--completion", "tclsh"]) == 2
    assert "bash" in capsys.readouterr().err
