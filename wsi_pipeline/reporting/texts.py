"""Texts that a paper needs, made of what the run knows: methods, model cards, checklists.

What the run does not know is left to the author and marked so.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from wsi_pipeline import __version__
from wsi_pipeline.atomic import remove, write_text
from wsi_pipeline.learn import METRICS
from wsi_pipeline.reporting.bundles import flat_rows
from wsi_pipeline.reporting.claims import UNSEEN, chosen_by, claims, intervals, openings, unseen
from wsi_pipeline.reporting.data import ModelReport, ReportData
from wsi_pipeline.reporting.figures import with_interval

METHODS: Final = "methods.md"
REFERENCES: Final = "methods.bib"
CARDS: Final = "cards"
CHECKLISTS: Final = "checklists"
SOURCES: Final = {  # of methods, by what their names begin with
    "tissue": {"otsu": ("otsu1979",)},
    "stain": {
        "macenko": ("macenko2009",),
        "vahadane": ("vahadane2016",),
        "reinhard": ("reinhard2001",),
    },
    "encoder": {
        "densenet": ("huang2017",), "resnet": ("he2016",), "efficientnet": ("tan2019",),
        "tf_efficientnet": ("tan2019",), "uni": ("chen2024",), "conch": ("lu2024",),
        "virchow": ("vorontsov2024",), "prov-gigapath": ("xu2024",), "gigapath": ("xu2024",),
    },
    "aggregator": {
        "abmil": ("ilse2018",), "gated_abmil": ("ilse2018",), "clam_sb": ("lu2021",),
        "dsmil": ("li2021",), "transmil": ("shao2021",),
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that a guideline asks for.

    ``mark`` is ``x`` where the run knows it, ``~`` where in part, a blank where the author must.
    """

    number: str
    name: str
    mark: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Checklist:
    """A guideline and what the run knows of it."""

    name: str
    source: str
    items: tuple[Item, ...]

    @property
    def known(self) -> int:
        return sum(item.mark == "x" for item in self.items)

    @property
    def partly(self) -> int:
        return sum(item.mark == "~" for item in self.items)


@dataclass(frozen=True, kw_only=True)
class ModelTexts:
    """Of one bundle: its card, as Markdown, and the checklists."""

    name: str
    card: str
    checklist: str
    checklists: tuple[Checklist, ...]


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Methods with their references, and what is said of each model; empty where nothing is."""

    methods: str = ""
    references: str = ""
    models: tuple[ModelTexts, ...] = ()


def make_texts(data: ReportData) -> Texts:
    """Write the texts of a run; the same data give the same text."""
    if not data.slides and not data.models:
        return Texts()
    cited: list[str] = []
    methods = _environment(cited).get_template("methods.md.j2").render(data=data)
    return Texts(
        methods=_tidy(methods),
        references=_references(cited),
        models=tuple(_of_model(data, model) for model in data.models),
    )


def write_texts(folder: Path, texts: Texts) -> list[Path]:
    """Write the texts into a folder, and remove those of models that are gone.

    Returns:
        The files that are there now.
    """
    wanted = {folder / METHODS: texts.methods, folder / REFERENCES: texts.references}
    for model in texts.models:
        name = re.sub(r"[^\w.+-]+", "-", model.name).strip("-") + ".md"
        wanted[folder / CARDS / name] = model.card
        wanted[folder / CHECKLISTS / name] = model.checklist
    there = [*(folder / CARDS).glob("*.md"), *(folder / CHECKLISTS).glob("*.md")]
    for path in {*there, folder / METHODS, folder / REFERENCES}:
        if not wanted.get(path) and path.exists():
            remove(path)
    for path, text in wanted.items():
        if text:
            write_text(path, text)
    return [path for path, text in wanted.items() if text]


def _of_model(data: ReportData, model: ModelReport) -> ModelTexts:
    environment = _environment([])
    lists = checklists(data, model)
    judged = [each for split in UNSEEN for each in unseen(model, split)]
    columns = [
        name
        for name, metric in METRICS.items()
        if metric.column and any(name in each.measures for each in judged)
    ]
    rows = [
        [each.split, each.level, f"{each.cases:,}", f"{each.patients:,}",
         *(with_interval(each.measures.get(name), 3) for name in columns)]
        for each in judged
    ]  # fmt: skip
    card = environment.get_template("card.md.j2").render(
        data=data,
        model=model,
        rows=rows,
        columns=[METRICS[name].heading for name in columns],
        external=any(each.split == "external" for each in judged),
        settings=flat_rows(model.record.settings),
    )
    listed = environment.get_template("checklist.md.j2").render(model=model, checklists=lists)
    return ModelTexts(name=model.name, card=_tidy(card), checklist=_tidy(listed), checklists=lists)


def checklists(data: ReportData, model: ModelReport) -> tuple[Checklist, ...]:
    """Hold what the run knows of a model against each guideline."""
    known = claims(data, model)
    return tuple(
        Checklist(
            name=table["name"],
            source=table["source"],
            items=tuple(_item(row, known) for row in table["items"]),
        )
        for table in tomllib.loads(_shipped("checklists.toml"))["list"]
    )


def _item(row: Sequence[str], known: dict[str, str]) -> Item:
    number, name, asks = row
    words = known.get(asks.removeprefix("~"), "")
    mark = " " if not words else "~" if asks.startswith("~") else "x"
    return Item(number=number, name=name, mark=mark, words=words)


def _environment(cited: list[str]) -> Environment:
    """Return the templates of plain text; what they cite is added to ``cited``, once."""
    environment = Environment(
        loader=PackageLoader("wsi_pipeline.reporting"),
        autoescape=select_autoescape(("html.j2",)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )

    def cite(*keys: str) -> str:
        cited.extend(key for key in keys if key not in cited)
        return f"[{'; '.join(f'@{key}' for key in keys)}]"

    def sources(kind: str, name: str) -> str:
        found = [keys for start, keys in SOURCES[kind].items() if name.lower().startswith(start)]
        return f" {cite(*found[0])}" if found else ""

    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    environment.globals |= {
        "version": __version__,
        "cite": cite,
        "intervals": intervals,
        "openings": openings,
        "interval_sources": lambda words: _interval_sources(words, cite),
        "schedule": lambda record: f"; kept was {kept}" if (kept := chosen_by(record)) else "",
        "percent": _percent,
        **{f"{kind}_sources": lambda name, kind=kind: sources(kind, name) for kind in SOURCES},
    }
    return environment


def _interval_sources(words: str, cite: Any) -> str:
    keys = [
        key
        for part, keys in {
            "exact": ("clopper1934", "fay2015"),
            "Newcombe": ("newcombe2006",),
            "bca": ("efron1987",),
        }.items()
        if part in words
        for key in keys
    ]
    return f" {cite(*keys)}" if keys else ""


def _percent(share: str) -> str:
    return f"{100 * float(share):g} %"


def _references(cited: Sequence[str]) -> str:
    entries = {
        found[1]: line
        for line in _shipped("references.bib").splitlines()
        if (found := re.match(r"@\w+\{(\w+),", line))
    }
    return "".join(f"{entries[key]}\n" for key in cited)


def _shipped(name: str) -> str:
    return (resources.files("wsi_pipeline.reporting") / "templates" / name).read_text("utf-8")


def _tidy(text: str) -> str:
    """Take out what the templates' branches leave: double blanks, rows of empty lines."""
    lines = (re.sub(r"  +", " ", line).rstrip() for line in text.strip().splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"
