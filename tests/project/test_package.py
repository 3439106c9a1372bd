"""What the package says of itself in several files is the same in all of them."""

import re
import tomllib
from pathlib import Path

import pytest

from wsi_pipeline import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONDA = {  # the index's names: conda-forge's, where they differ
    "openslide-bin": "openslide",
    "opencv-python-headless": "py-opencv",
    "torch": "pytorch",
    "xxhash": "python-xxhash",
    "lazy-loader": "lazy_loader",
    "matplotlib": "matplotlib-base",
}
REQUIREMENT = re.compile(r"([\w-]+) ?(?:\[[\w,]+\])?(.*)")


def test_the_conda_recipe_asks_for_what_the_wheel_asks_for() -> None:
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load((ROOT / "deploy/conda/recipe.yaml").read_text("utf-8"))
    assert recipe["package"] == {"name": PROJECT["name"], "version": __version__}
    assert recipe["about"]["summary"] == PROJECT["description"]
    assert recipe["about"]["license"] == PROJECT["license"]
    (script,) = PROJECT["scripts"].items()
    assert recipe["build"]["python"]["entry_points"] == [" = ".join(script)]
    asked = dict(REQUIREMENT.fullmatch(text).groups() for text in recipe["requirements"]["run"])
    assert asked.pop("python") == PROJECT["requires-python"]
    wheel = dict(REQUIREMENT.fullmatch(text).groups() for text in PROJECT["dependencies"])
    wheel["openslide-bin"] = ">=4.0.0"  # its own count of builds follows
    assert asked == {CONDA.get(name, name): bound for name, bound in wheel.items()}


def test_versions_agree() -> None:
    assert PROJECT["version"] == __version__
    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_all_is_every_extra_for_users() -> None:
    extras = PROJECT["optional-dependencies"]
    (every,) = extras["all"]
    named = re.fullmatch(r"wsi-pipeline\[([\w,]+)\]", every)[1].split(",")
    apart = {"spatialdata"}  # which holds back versions that all else is tested with
    assert sorted(named) == sorted(extras.keys() - {"all", "dev", "docs"} - apart)


def test_what_is_tested_with_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {_plain(line.partition("==")[0]) for line in lines if "==" in line}
    wanted = [*PROJECT["dependencies"]]
    for extra in ("dev", "docs", "demo"):
        wanted += PROJECT["optional-dependencies"][extra]
    named = {_plain(REQUIREMENT.fullmatch(text)[1]) for text in wanted}
    assert not {name for name in named if not name.endswith("-stubs")} - pinned


def test_every_target_that_is_promised_has_a_rule() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    promised = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    assert {"docs", "package", "test", "demo"} <= {*promised}
    for target in promised:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for page in ("README.md", "CONTRIBUTING.md", ".github/workflows/ci.yml"):
        text = (ROOT / page).read_text("utf-8")
        assert {*re.findall(r"\bmake (\w+)\b(?= |$|`)", text)} <= {*promised}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
