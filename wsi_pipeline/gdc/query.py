"""From a question to the GDC to a manifest and a cohort table that says what it can show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.gdc.clinical import COLUMNS, Condition, condition, parse_filter
from wsi_pipeline.gdc.labels import LabelRules, label_slide
from wsi_pipeline.gdc.manifest import ManifestEntry
from wsi_pipeline.gdc.recipes import RECIPES, RecipeName, caveats, summarise
from wsi_pipeline.gdc.records import FIELDS, SlideRecord, read_record
from wsi_pipeline.gdc.search import Found, entry_of, find_files, known_values
from wsi_pipeline.registry import unknown
from wsi_pipeline.remote import Client, slide_ids
from wsi_pipeline.settings import describe, load_toml

STRATEGIES: Final = ("Diagnostic Slide", "Tissue Slide")
PROJECT: Final = "cases.project.project_id"
SITE: Final = "cases.primary_site"
SHOWN: Final = 3


class GdcQuery(BaseModel):
    """Which slides to ask the GDC for, what is wanted of them, and how they are labelled.

    Without ``labels`` every slide is taken and none is labelled. ``cohort`` names the slides'
    source, by default their programme. ``columns`` are clinical facts to write down, ``filters``
    what they must be; ``exclude_warnings`` leaves out slides with these annotations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    projects: tuple[str, ...] = ()
    primary_sites: tuple[str, ...] = ()
    recipe: RecipeName | None = None
    cohort: str | None = None
    labels: LabelRules | None = None
    columns: tuple[str, ...] = ()
    filters: tuple[Condition, ...] = ()
    exclude_warnings: tuple[str, ...] = ()

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(COLUMNS.check(name) for name in columns)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @field_validator("filters", mode="before")
    @classmethod
    def _conditions(cls, filters: Any) -> Any:
        """Take a TOML table, the texts of flags, or conditions."""
        try:
            if isinstance(filters, Mapping):
                return tuple(condition(fact, wanted) for fact, wanted in filters.items())
            return tuple(parse_filter(one) if isinstance(one, str) else one for one in filters)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not (self.projects or self.primary_sites):
            raise ValueError("name projects or primary_sites, else every slide there is would come")
        return self

    @classmethod
    def make(cls, path: Path | None, given: Mapping[str, Any]) -> Self:
        """Read a query file, if there is one; what is ``given`` wins, filters and columns add up.

        Raises:
            ConfigError: It is missing, no TOML, or has unknown or impossible settings.
        """
        values = load_toml(path) if path else {}
        try:
            query = cls.model_validate({**values, **{k: v for k, v in given.items() if v}})
            told = cls.model_validate({"projects": ["x"], **values}) if path else query
        except ValidationError as error:
            raise ConfigError(describe(error, str(path or "the query"))) from None
        columns = tuple(dict.fromkeys((*told.columns, *query.columns)))
        filters = tuple(dict.fromkeys((*told.filters, *query.filters)))
        return query.model_copy(update={"columns": columns, "filters": filters})

    @property
    def chosen_recipe(self) -> RecipeName:
        return self.recipe or ("frozen-only" if self.labels else "all")

    @property
    def fields(self) -> tuple[str, ...]:
        """The GDC's fields to ask for."""
        asked = [name for column in self.columns for name in COLUMNS[column].fields]
        asked += [name for each in self.filters for name in each.fields]
        asked += self.labels.fields if self.labels else ()
        return tuple(dict.fromkeys((*FIELDS, *asked)))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The slides of a query that may stand in one cohort, and why the others may not."""

    entries: tuple[ManifestEntry, ...]
    slides: tuple[CohortSlide, ...]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]


@dataclass(kw_only=True)
class _Selecting:
    entries: list[ManifestEntry] = field(default_factory=list)
    slides: list[CohortSlide] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    bases: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    contradictory: list[str] = field(default_factory=list)


def ask(client: Client, query: GdcQuery) -> Found:
    """Ask the GDC for every slide of a query's projects and sites.

    Raises:
        ConfigError: It knows no such project, site or field.
        DownloadError: It cannot answer.
    """
    wanted: dict[str, Sequence[str]] = {
        "data_format": ("SVS",),
        "experimental_strategy": STRATEGIES,
    }
    if query.projects:
        wanted[PROJECT] = query.projects
    if query.primary_sites:
        wanted[SITE] = _sites(client, query.primary_sites)
    terms = [
        {"op": "in", "content": {"field": name, "value": list(values)}}
        for name, values in wanted.items()
    ]
    found = find_files(client, {"op": "and", "content": terms}, query.fields)
    if not found.hits and query.projects:
        known = known_values(client, PROJECT)
        strange = [name for name in query.projects if name not in known]
        if strange and known:
            raise ConfigError(unknown("project", strange[0], known))
    return replace(found, warnings=_serious(found.warnings, query))


def _sites(client: Client, asked: Sequence[str]) -> list[str]:
    """Return the primary sites that the GDC has by these names, or that hold these words."""
    known = known_values(client, SITE)
    sites: dict[str, None] = {}
    for name in asked:
        word = name.strip().casefold()
        found = [site for site in known if site.casefold() == word]
        found = found or [site for site in known if word in site.casefold()]
        if not found:
            raise ConfigError(unknown("primary site", name, known))
        sites |= dict.fromkeys(found)
    return list(sites)


def _serious(warnings: Sequence[str], query: GdcQuery) -> tuple[str, ...]:
    """Return the server's warnings that matter.

    A fact that stands under an old and a new name is asked for by both, and a server that knows one
    of them warns of the other.

    Raises:
        ConfigError: It does not know a field on which a label or a filter rests.
    """
    rules = [*query.filters]
    rules += [
        each for kind in (query.labels.classes if query.labels else ()) for each in kind.conditions
    ]
    text = " ".join(warnings)
    for each in rules:
        if "." in each.fact and each.fact in text:
            raise ConfigError(f"the GDC knows no field {each.fact!r}")
    optional = {
        name for column in COLUMNS.values() if len(column.fields) > 1 for name in column.fields
    }
    return tuple(warning for warning in warnings if not any(name in warning for name in optional))


def select(hits: Sequence[Mapping[str, Any]], query: GdcQuery) -> Selection:
    """Choose and label the slides of one cohort from the answers of ``/files``.

    Raises:
        ConfigError: Slides are of two classes.
    """
    so_far = _Selecting()
    for hit in hits:
        reason = _take(hit, query, so_far)
        if reason:
            so_far.left_out[reason] += 1
    _refuse_contradictions(so_far.contradictory)
    names = slide_ids(so_far.entries)
    named = [
        replace(slide, slide_id=name) for slide, name in zip(so_far.slides, names, strict=True)
    ]
    order = sorted(range(len(named)), key=lambda at: named[at].slide_id)
    slides = tuple(named[at] for at in order)
    notes = [f"label from {basis}: {count} slides" for basis, count in so_far.bases.most_common()]
    notes += [
        f"the GDC warns of {count} slides: {text}" for text, count in so_far.warnings.most_common()
    ]
    return Selection(
        entries=tuple(so_far.entries[at] for at in order),
        slides=slides,
        left_out=dict(so_far.left_out),
        notes=(*summarise(slides), *notes, *caveats(RECIPES[query.chosen_recipe], slides)),
    )


def _take(hit: Mapping[str, Any], query: GdcQuery, so_far: _Selecting) -> str:
    """Add a hit's slide to ``so_far``, or return why it stays out."""
    try:
        entry = entry_of(hit)
    except ValueError as error:
        return f"incomplete record: {error}"
    record = read_record(hit)
    project = record.project or (query.projects[0] if len(query.projects) == 1 else None)
    judged = judge(record, project, query)
    if judged.labels:
        so_far.contradictory.append(f"{entry.filename} is {' and '.join(judged.labels)}")
    if judged.reason:
        return judged.reason
    if judged.basis:
        so_far.bases[judged.basis] += 1
    so_far.entries.append(entry)
    row = slide_row(record, judged.label, _cohort(query, project), query.columns)
    so_far.slides.append(replace(row, path=entry.relative_path.as_posix()))
    so_far.warnings.update(record.warnings)
    return ""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A slide's label and what it rests on, or the ``reason`` why it is not of the cohort.

    ``labels`` are several where the classes contradict each other.
    """

    label: str | None = None
    basis: str = ""
    reason: str = ""
    labels: tuple[str, ...] = ()


def judge(record: SlideRecord, project: str | None, query: GdcQuery) -> Judged:
    """Decide whether a slide is of a query's cohort, and by which label."""
    reason = _unwanted(record, query)
    if reason or query.labels is None:
        return Judged(reason=reason)
    found = label_slide(record, project, query.labels)
    if found.label is None:
        return Judged(reason=found.basis, labels=found.labels)
    return Judged(label=found.label, basis=found.basis)


def _unwanted(record: SlideRecord, query: GdcQuery) -> str:
    """Return why a slide is not of the query's cohort, whatever its label; empty if it may be."""
    if record.trouble:
        return record.trouble
    if record.patient_id is None:
        return "incomplete record: no case"
    recipe = RECIPES[query.chosen_recipe]
    if recipe.preservation not in (None, record.preservation):
        return f"{record.preservation or 'unknown preservation'}, not in recipe {recipe.name}"
    for each in query.filters:
        met = each.met(record)
        if not met:
            return f"filter {each}" + ("" if met is False else ": not recorded")
    warned = [text for text in record.warnings if text in query.exclude_warnings]
    return f"the GDC warns: {warned[0]}" if warned else ""


def slide_row(
    record: SlideRecord, label: str | None, cohort: str, columns: Sequence[str]
) -> CohortSlide:
    """Return a slide's row of the cohort table; its path and final name are still to be given."""
    facts: dict[str, Any] = {name: COLUMNS[name].of(record) for name in columns}
    return CohortSlide(
        slide_id="unnamed",  # until all are known, for two may have one name
        path=record.filename,
        patient_id=record.patient_id,
        label=label,
        cohort=cohort,
        site=record.site,
        preservation=record.preservation,
        sample_type=record.sample_type,
        warnings="; ".join(record.warnings) or None,
        **facts,
    )


def _cohort(query: GdcQuery, project: str | None) -> str:
    """Return the name of the slides' source: ``tcga`` for a project such as TCGA-LIHC."""
    return query.cohort or (project or "gdc").partition("-")[0].lower()


def _refuse_contradictions(found: Sequence[str]) -> None:
    if not found:
        return
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise ConfigError(
        f"{len(found)} slides are of two classes: {'; '.join(found[:SHOWN])}{more}. Change the "
        "classes so that each slide is of one"
    )
