"""What the site shows beside `docs/`: README, figures kept elsewhere, verbs and their settings.

MkDocs calls `on_config`, `on_files` and `on_page_markdown`; nothing is written into the sources.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from wsi_pipeline.flags import metavar, sentence, topics
from wsi_pipeline.settings import POSITIONAL, StageConfig
from wsi_pipeline.verbs import GROUPS, Verb

ROOT = Path(__file__).parents[1]
ELSEWHERE = {  # what lies outside docs/: its page
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "manifests/README.md": "manifests.md",
}
FIGURES = "benchmarks/results"
LINK = re.compile(r"\]\(([^)#\s:]+)(#[^)]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page a verb below the table of verbs."""
    pages = [{"All verbs": "verbs.md"}]
    pages += [{verb.name: f"verbs/{verb.name}.md"} for verb in _verbs()]
    for section in config.nav or []:
        for entry in section.get("Reference", []):
            if "Verbs and settings" in entry:
                entry["Verbs and settings"] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and what pages show from outside `docs/`."""
    made = {name: (ROOT / source).read_text("utf-8") for source, name in ELSEWHERE.items()}
    made["verbs.md"] = "\n".join(_listing())
    made |= {f"verbs/{verb.name}.md": "\n".join(_page(verb)) for verb in _verbs()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for path in sorted((ROOT / FIGURES).glob("*.svg")):
        name = f"{FIGURES}/{path.name}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Turn links as the repository has them into the site's."""
    here = page.file.src_uri
    source = next((old for old, new in ELSEWHERE.items() if new == here), f"docs/{here}")

    def turned(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        name = ELSEWHERE.get(target, target.removeprefix("docs/"))
        if not target.startswith(("docs/", FIGURES)) and target not in ELSEWHERE:
            return found[0]
        return f"]({posixpath.relpath(name, posixpath.dirname(here) or '.')}{found[2] or ''})"

    return LINK.sub(turned, markdown)


def _verbs() -> Iterator[Verb]:
    for configs in GROUPS.values():
        yield from map(Verb, configs)


def _listing() -> Iterator[str]:
    yield "# Verbs"
    yield "\n`wsi VERB --help` says the same. Each verb takes its settings as flags and from TOML"
    yield "(`--config FILE`, or `[verb]` in a study file), named as the flags are, `_` for `-`."
    for group, configs in GROUPS.items():
        yield f"\n## {group.capitalize()}\n\n| Verb | What it does |\n|---|---|"
        for verb in map(Verb, configs):
            yield f"| [`{verb.name}`](verbs/{verb.name}.md) | {_cell(verb.about)} |"
    yield "\n## How the work is done\n\nEvery verb takes these.\n"
    yield from _table(StageConfig, [*StageConfig.model_fields])


def _page(verb: Verb) -> Iterator[str]:
    config = verb.config_class
    yield f"# {verb.name}\n\n{verb.about}\n\n```\nwsi {verb.name} {config.example}\n```"
    for topic, names in topics(config):
        if topic != StageConfig.topic:
            yield f"\n## {topic.capitalize()}\n"
            yield from _table(config, names)
    yield f"\nAnd what [every verb](../verbs.md#{StageConfig.topic.replace(' ', '-')}) takes."


def _table(config: type[StageConfig], names: list[str]) -> Iterator[str]:
    yield "| Flag | Value | What it says |\n|---|---|---|"
    for name in names:
        field = config.model_fields[name]
        alone = POSITIONAL in field.metadata
        flag = f"*{name}*, without a flag" if alone else f"`--{name.replace('_', '-')}`"
        value = "" if field.annotation is bool else f"`{metavar(name, field)}`"
        yield f"| {flag} | {_cell(value)} | {_cell(sentence(field, field.default))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*.", "\\*.")
