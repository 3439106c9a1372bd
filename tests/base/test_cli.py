"""Every verb: flags and TOML say the same, a flag wins, mistakes are sentences with status 2."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field
from pydantic_settings import CliPositionalArg

from wsi_pipeline.cli import command, parse
from wsi_pipeline.config import HOW, StageConfig, digest
from wsi_pipeline.errors import ConfigError, SlideOpenError, UsageError
from wsi_pipeline.events import Event, SlideDone, SlideFailed, StageStarted


class CutConfig(StageConfig):
    """Cut something."""

    slides: CliPositionalArg[Path] = Field(description="What to cut.")
    out: Annotated[Path, HOW] = Field(description="Where to.")
    mpp: float = Field(default=0.5, gt=0, description="Target µm per pixel.")


def test_flags_file_and_precedence(tmp_path: Path) -> None:
    file = tmp_path / "cut.toml"
    file.write_text('slides = "a"\nout = "b"\nmpp = 0.3\n')
    assert parse("cut", CutConfig, ["--config", str(file)]) == CutConfig(
        slides=Path("a"), out=Path("b"), mpp=0.3
    )
    assert parse("cut", CutConfig, ["x", "--mpp", "0.25", "--config", str(file)]) == CutConfig(
        slides=Path("x"), out=Path("b"), mpp=0.25
    )


def test_mistakes_are_named(tmp_path: Path) -> None:
    file = tmp_path / "cut.toml"
    file.write_text("mmp = 0.3\n")
    with pytest.raises(ConfigError, match=r"cut\.toml: unknown setting 'mmp'"):
        parse("cut", CutConfig, ["x", "--config", str(file)])
    with pytest.raises(ConfigError, match=r"'mpp': Input should be greater than 0 \(found '-1'\)"):
        parse("cut", CutConfig, ["x", "--out", "y", "--mpp", "-1"])
    with pytest.raises(ConfigError, match="'out' is required"):
        parse("cut", CutConfig, ["x"])
    with pytest.raises(ConfigError, match="no such settings file"):
        parse("cut", CutConfig, ["x", "--config", "nowhere.toml"])


def test_identity_leaves_out_how() -> None:
    one = CutConfig(slides=Path("a"), out=Path("b"), workers=3)
    two = CutConfig(slides=Path("a"), out=Path("c"), dry_run=True)
    assert one.identity() == two.identity() == {"slides": "a", "mpp": 0.5}
    assert digest(one.identity()) != digest(CutConfig(slides=Path("b"), out=Path("b")).identity())


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, 0), ("slide", 1), (SlideOpenError("gone"), 1), (UsageError("no"), 2)],
)
def test_exit_status(error: object, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: CutConfig) -> Iterator[Event]:
        yield StageStarted(stage="cut", total=2)
        yield SlideDone(slide_id="a", counts={"tiles kept": 1200})
        if isinstance(error, Exception):
            raise error
        if error:
            yield SlideFailed(slide_id="b", error="b.svs: truncated")

    assert command("cut", CutConfig, run, ["x", "--out", "y"]) == status
    out, err = capsys.readouterr()
    assert "a: done" in out
    assert "Traceback" not in out + err
    if error == "slide":
        assert "failed b: b.svs: truncated" in out
        assert "1,200" in out
