"""From a question to the GDC to a manifest and a cohort table that says what it can show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.config import describe, load_toml
from wsi_pipeline.errors import ConfigError, DownloadError
from wsi_pipeline.gdc.barcode import SlideName, parse_slide_name
from wsi_pipeline.gdc.labels import FIELDS, LabelRules, label_slide, project_of
from wsi_pipeline.gdc.manifest import MD5, UUID, ManifestEntry, safe_filename
from wsi_pipeline.gdc.recipes import RECIPES, RecipeName, caveats, summarise
from wsi_pipeline.remote import Client, slide_ids

PAGE: Final = 500
PASSES: Final = 3
STRATEGIES: Final = ("Diagnostic Slide", "Tissue Slide")


class GdcQuery(BaseModel):
    """Which slides to ask the GDC for, and how they are labelled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    projects: tuple[str, ...] = Field(min_length=1)
    recipe: RecipeName = "frozen-only"
    cohort: str = "tcga"
    labels: LabelRules

    @classmethod
    def from_toml(cls, path: Path, recipe: RecipeName | None = None) -> Self:
        """Read a query file; ``recipe`` wins over the one in it.

        Raises:
            ConfigError: It is missing, no TOML, or has unknown or impossible settings.
        """
        values = load_toml(path) | ({"recipe": recipe} if recipe else {})
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(describe(error, str(path))) from None

    def filters(self) -> dict[str, Any]:
        """Return the filter that the ``/files`` endpoint takes."""
        wanted = {
            "cases.project.project_id": self.projects,
            "data_format": ("SVS",),
            "experimental_strategy": STRATEGIES,
        }
        terms = [
            {"op": "in", "content": {"field": name, "value": list(values)}}
            for name, values in wanted.items()
        ]
        return {"op": "and", "content": terms}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What ``/files`` answered; ``warnings`` are the server's own, or about its pages."""

    hits: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Page:
    hits: list[dict[str, Any]]
    total: int
    warnings: list[str]


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


def find_files(client: Client, filters: Mapping[str, Any], fields: Sequence[str] = FIELDS) -> Found:
    """Return every hit of a ``/files`` query once, page after page, in the order of their ids.

    A server whose pages repeat or drop files while it changes is asked again from the start.

    Raises:
        DownloadError: The server cannot answer, or not in the form it documents.
    """
    hits: dict[str, Mapping[str, Any]] = {}
    warnings: dict[str, None] = {}
    total = 0
    for _ in range(PASSES):
        start, total = 0, 1
        while start < total:
            page = _page(client.ask("files", _question(filters, fields, start)))
            if not page.hits:
                break
            start, total = start + len(page.hits), page.total
            hits |= {_id(hit): hit for hit in page.hits if _id(hit) not in hits}
            warnings |= dict.fromkeys(page.warnings)
        if len(hits) >= total or not hits:
            break
    else:
        short = f"the server counts {total} files, but only {len(hits)} different ones came"
        warnings[short] = None
    return Found(hits=tuple(hits.values()), warnings=tuple(warnings))


def select(hits: Sequence[Mapping[str, Any]], query: GdcQuery) -> Selection:
    """Choose and label the slides of one cohort from the answers of ``/files``."""
    so_far = _Selecting()
    for hit in hits:
        reason = _take(hit, query, so_far)
        if reason:
            so_far.left_out[reason] += 1
    names = slide_ids(so_far.entries)
    named = [
        replace(slide, slide_id=name) for slide, name in zip(so_far.slides, names, strict=True)
    ]
    order = sorted(range(len(named)), key=lambda at: named[at].slide_id)
    slides = tuple(named[at] for at in order)
    notes = [f"label from {basis}: {count} slides" for basis, count in so_far.bases.most_common()]
    recipe = RECIPES[query.recipe]
    return Selection(
        entries=tuple(so_far.entries[at] for at in order),
        slides=slides,
        left_out=dict(so_far.left_out),
        notes=(*summarise(slides), *notes, *caveats(recipe, slides)),
    )


def entry_of(hit: Mapping[str, Any]) -> ManifestEntry:
    """Return the manifest row of a hit.

    Raises:
        ValueError: A key is missing or impossible.
    """
    file_id = _id(hit).lower()
    md5, size = str(hit.get("md5sum") or "").lower(), hit.get("file_size")
    if not UUID.fullmatch(file_id):
        raise ValueError("no file id")
    if not MD5.fullmatch(md5):
        raise ValueError("no md5")
    if not isinstance(size, int) or size < 1:
        raise ValueError("no size")
    state = hit.get("state")
    return ManifestEntry(
        id=file_id,
        filename=safe_filename(str(hit.get("file_name") or "")),
        md5=md5,
        size=size,
        state=str(state) if state else None,
    )


def _take(hit: Mapping[str, Any], query: GdcQuery, so_far: _Selecting) -> str:
    """Add a hit's slide to ``so_far``, or return why it stays out."""
    try:
        entry = entry_of(hit)
    except ValueError as error:
        return f"incomplete record: {error}"
    name = parse_slide_name(entry.filename)
    if name is None:
        return "not named as TCGA names slides"
    if name.preservation != RECIPES[query.recipe].preservation:
        return f"{name.preservation}, not in recipe {query.recipe}"
    project = project_of(hit) or (query.projects[0] if len(query.projects) == 1 else None)
    labelled = label_slide(name, hit, project, query.labels)
    if labelled.label is None:
        return labelled.basis
    so_far.entries.append(entry)
    so_far.slides.append(_row(entry, name, labelled.label, query.cohort))
    so_far.bases[labelled.basis] += 1
    return ""


def _row(entry: ManifestEntry, name: SlideName, label: str, cohort: str) -> CohortSlide:
    return CohortSlide(
        slide_id=entry.id,  # until all are known, for two may have one name
        path=entry.relative_path.as_posix(),
        patient_id=name.patient_id,
        label=label,
        cohort=cohort,
        site=name.site,
        preservation=name.preservation,
        sample_type=name.sample_type,
    )


def _question(filters: Mapping[str, Any], fields: Sequence[str], start: int) -> dict[str, Any]:
    return {
        "filters": filters,
        "fields": ",".join(fields),
        "format": "JSON",
        "size": PAGE,
        "from": start,
        "sort": "file_id:asc",
    }


def _page(answer: Any) -> _Page:
    try:
        warnings, data = answer.get("warnings") or {}, answer["data"]
        hits = [dict(hit) for hit in data["hits"]]
        total = int(data["pagination"]["total"])
        said = [f"{name}: {text}" for name, text in warnings.items()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DownloadError(f"files: an answer that cannot be understood ({error!r})") from None
    return _Page(hits=hits, total=total, warnings=said)


def _id(hit: Mapping[str, Any]) -> str:
    return str(hit.get("file_id") or hit.get("id") or "")
