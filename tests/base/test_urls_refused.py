"""A URL where a folder of this machine is asked for is refused, and leaves no folder ``s3:``."""

from pathlib import Path
from typing import Any, get_args

import pytest

from wsi_pipeline.cli import main
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.verbs import VERBS


def kinds(annotation: Any) -> set[Any]:
    inside = get_args(annotation)
    return set().union(*map(kinds, inside)) if inside else {annotation}


PATHS = [
    (name, field)
    for name in VERBS
    for field, info in VERBS.choose(name).config_class.model_fields.items()
    if Path in (found := kinds(info.annotation)) and str not in found and field != "scratch"
]


@pytest.mark.parametrize(("verb", "field"), PATHS)
def test_every_path_of_every_verb_refuses_a_url(verb: str, field: str) -> None:
    config = VERBS.choose(verb).config_class
    for url in ("gs://bucket/run", "https://example.org/run", Path("s3://bucket/run")):
        with pytest.raises(ConfigError, match=rf"{field}.*is a URL"):
            config.from_mapping({field: url}, "test")


def test_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["import_features", "features", "--run", "s3://bucket/run"]) == 2
    assert "s3://bucket/run is a URL" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
