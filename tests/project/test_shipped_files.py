"""What the project ships can be used as it stands: stage files, README commands, --help, layers."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from wsi_pipeline.cli import parse
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.pipeline.compare import STUDY, read_plan
from wsi_pipeline.pipeline.study_file import read_study
from wsi_pipeline.verbs import VERBS

ROOT = Path(__file__).parents[2]
STAGE_FILES = sorted((ROOT / "stages").glob("*.toml"))
USAGE = re.compile(r"python -m wsi_pipeline\.(\w+) +([^#`\n]+)")


def commands(text: str) -> list[tuple[str, str]]:
    """Find every command line in a comment or a code block, continued lines joined."""
    return USAGE.findall(re.sub(r" *\\\n#? *", " ", text))


@pytest.mark.parametrize("path", STAGE_FILES, ids=lambda path: path.name)
def test_every_stage_file_is_understood(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study file as a study; a stage's file by the command in its first lines."""
    monkeypatch.chdir(ROOT)
    text = path.read_text("utf-8")
    tables = tomllib.loads(text)
    if "compare" in tables:
        assert read_plan(path).encoders == list(STUDY)
        return
    if any(isinstance(value, dict) and name in VERBS for name, value in tables.items()):
        assert read_study(path)
        return
    verb, arguments = commands(text)[0]
    assert path.name in arguments
    parse(VERBS[verb], shlex.split(arguments))


@pytest.mark.parametrize(
    "command",
    [
        found
        for page in ("README.md", "manifests/README.md", "docs/gdc.md", "docs/tissue.md")
        for found in commands((ROOT / page).read_text("utf-8"))
    ],
    ids=lambda found: found[0],
)
def test_every_command_of_the_documents_parses(
    command: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    verb, arguments = command
    parse(VERBS[verb], shlex.split(arguments))


def test_an_unknown_flag_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wsi_pipeline.tile", "--mmp", "0.5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--mmp" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_study_file_is_refused_with_its_table(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    for text, message in [
        ("[tiles]\n", r"\[tiles\]: there is no stage 'tiles'; did you mean 'tile'"),
        ("[study]\nrun = 'r'\n", "names no stage"),
        ("[study]\nrnu = 'r'\n[report]\nrun = 'r'\n", "no stage of this study knows 'rnu'"),
        ("[report]\nrun = 'r'\ntitel = 'x'\n", r"\[report\]: unknown setting 'titel'"),
        ("[tile]\nrun = 'r'\n", r"\[tile\]: 'cohort' is required"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_study(path)


def test_no_file_is_larger_than_a_mebibyte() -> None:
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in done.stdout.split("\0") if name]
    assert names
    assert [name for name in names if (ROOT / name).stat().st_size > 1 << 20] == []
