"""What the GDC's record says of one slide: whose it is, of which tissue, how it was kept.

A record names a case with all of its samples, and each sample with its portions and slides; a slide
is told by its own entity among them. The file's name is asked only where the record is silent, and
where both speak and contradict each other, the record is not believed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

Preservation = Literal["FFPE", "frozen"]

SLIDE_NAME: Final = re.compile(
    r"^(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})-(\d{2})([A-Z])-(\d{2})-(DX|TS|BS|MS)(\w+)"
    r"(?:\.([0-9A-Fa-f-]{36}))?\.svs$"
)
SAMPLE_TYPES: Final = {
    "01": "Primary Tumor",
    "02": "Recurrent Tumor",
    "05": "Additional - New Primary",
    "06": "Metastatic",
    "07": "Additional Metastatic",
    "11": "Solid Tissue Normal",
}
NORMAL: Final = "11"
DESCRIPTORS: Final = {  # of newer records, which have no sample type
    "primary": "Primary Tumor",
    "recurrence": "Recurrent Tumor",
    "metastatic": "Metastatic",
    "new primary": "Additional - New Primary",
}
KEPT: Final[Mapping[str, Preservation]] = {
    "ffpe": "FFPE",
    "frozen": "frozen",
    "snap frozen": "frozen",
    "fresh frozen": "frozen",
    "oct": "frozen",
}
SILENT: Final = frozenset(
    {"", "--", "not reported", "unknown", "not allowed to collect", "not applicable", "none"}
)
HCMI: Final = re.compile(r"HCM-([A-Z0-9]+)-")
FIELDS: Final = (
    "file_id",
    "file_name",
    "md5sum",
    "file_size",
    "state",
    "access",
    "data_format",
    "experimental_strategy",
    "associated_entities.case_id",
    "associated_entities.entity_id",
    "associated_entities.entity_submitter_id",
    "associated_entities.entity_type",
    "cases.case_id",
    "cases.submitter_id",
    "cases.primary_site",
    "cases.project.project_id",
    "cases.tissue_source_site.code",
    "cases.samples.submitter_id",
    "cases.samples.sample_type",
    "cases.samples.tissue_type",
    "cases.samples.tumor_descriptor",
    "cases.samples.preservation_method",
    "cases.samples.portions.is_ffpe",
    "cases.samples.portions.slides.slide_id",
    "cases.samples.portions.slides.submitter_id",
    "cases.diagnoses.primary_diagnosis",
    "cases.diagnoses.morphology",
    "cases.diagnoses.diagnosis_is_primary_disease",
    "annotations.category",
    "cases.annotations.category",
    "cases.samples.annotations.category",
    "cases.samples.portions.annotations.category",
    "cases.samples.portions.slides.annotations.category",
)
WARNINGS: Final = tuple(name for name in FIELDS if name.endswith("annotations.category"))


@dataclass(frozen=True, kw_only=True)
class SlideName:
    """The parts of a TCGA slide's file name.

    ``section`` is DX (diagnostic, paraffin) or TS, BS, MS (top, bottom, middle of a frozen block).
    """

    patient_id: str
    sample_code: str
    vial: str
    portion: str
    section: str
    number: str
    uuid: str | None

    @property
    def site(self) -> str:
        """Tissue source site, the two characters after ``TCGA-``."""
        return self.patient_id[5:7]

    @property
    def preservation(self) -> Preservation:
        return "FFPE" if self.section == "DX" else "frozen"

    @property
    def is_normal(self) -> bool:
        return self.sample_code == NORMAL

    @property
    def sample_type(self) -> str:
        return SAMPLE_TYPES.get(self.sample_code, f"sample type {self.sample_code}")


def parse_slide_name(filename: str) -> SlideName | None:
    """Return the parts of ``filename``, or None when it is not named as TCGA names slides."""
    match = SLIDE_NAME.match(filename)
    if match is None:
        return None
    patient_id, sample_code, vial, portion, section, number, uuid = match.groups()
    return SlideName(
        patient_id=patient_id,
        sample_code=sample_code,
        vial=vial,
        portion=portion,
        section=section,
        number=number,
        uuid=uuid,
    )


@dataclass(frozen=True, kw_only=True)
class SlideRecord:
    """A slide's own part of a record; what is of other samples or slides of its case is left out.

    ``trouble`` says why the record cannot be believed; empty where it can.
    """

    filename: str
    own: Mapping[str, Any]
    name: SlideName | None
    trouble: str = ""

    def values(self, field: str) -> tuple[str, ...]:
        """Return what the record says under a field's name, such as ``cases.diagnoses.morphology``;
        empty where it says nothing, or that it does not know."""
        found = (str(value).strip() for value in _walk(self.own, field.split(".")))
        return tuple(dict.fromkeys(text for text in found if text.lower() not in SILENT))

    def value(self, *fields: str) -> str | None:
        """Return the first thing said under the first of ``fields`` that says something."""
        return next((found for field in fields for found in self.values(field)), None)

    @property
    def patient_id(self) -> str | None:
        return self.value("cases.submitter_id") or (self.name.patient_id if self.name else None)

    @property
    def project(self) -> str | None:
        return self.value("cases.project.project_id")

    @property
    def site(self) -> str | None:
        """Where the tissue came from: the tissue source site's code."""
        coded = self.value("cases.tissue_source_site.code")
        hcmi = HCMI.match(self.patient_id or "")
        return self.name.site if self.name else coded or (hcmi.group(1) if hcmi else None)

    @property
    def sample_type(self) -> str | None:
        """As the GDC words it: ``Primary Tumor``, ``Solid Tissue Normal`` …"""
        return _sample_type(self) or (self.name.sample_type if self.name else None)

    @property
    def is_normal(self) -> bool:
        return "normal" in (self.sample_type or "").lower()

    @property
    def preservation(self) -> Preservation | None:
        """By the section in a TCGA name, else by the portion, the sample, or the kind of slide."""
        if self.name is not None:
            return self.name.preservation
        if (self.value("cases.samples.portions.is_ffpe") or "").lower() in ("true", "yes"):
            return "FFPE"
        kept = KEPT.get((self.value("cases.samples.preservation_method") or "").lower())
        if kept is None and self.value("experimental_strategy") == "Diagnostic Slide":
            return "FFPE"
        return kept

    @property
    def warnings(self) -> tuple[str, ...]:
        """Categories of the annotations of the file, its case, sample, portion and slide."""
        return tuple(dict.fromkeys(text for field in WARNINGS for text in self.values(field)))


def read_record(hit: Mapping[str, Any]) -> SlideRecord:
    """Find the slide's own part in a ``/files`` answer; every key may be missing."""
    filename = str(hit.get("file_name") or "")
    name = parse_slide_name(filename)
    case, trouble = _own_case(hit, filename)
    own = {key: value for key, value in hit.items() if key != "cases"}
    if case is not None:
        own["cases"] = [_pruned(case, _slide_names(hit, filename))]
    record = SlideRecord(filename=filename, own=own, name=name, trouble=trouble)
    trouble = trouble or _contradiction(record)
    return SlideRecord(filename=filename, own=own, name=name, trouble=trouble)


def _own_case(hit: Mapping[str, Any], filename: str) -> tuple[Mapping[str, Any] | None, str]:
    """Return the case that the slide is of, or why it cannot be told."""
    cases = _dicts(hit.get("cases"))
    if len(cases) < 2:
        return (cases[0] if cases else None), ""
    ids = {entity.get("case_id") for entity in _slides_among(hit)}
    for own in (
        [case for case in cases if case.get("case_id") in ids],
        [case for case in cases if filename.startswith(str(case.get("submitter_id") or "\0"))],
    ):
        if len(own) == 1:
            return own[0], ""
    return None, "the record names several cases"


def _slides_among(hit: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    entities = _dicts(hit.get("associated_entities"))
    return [entity for entity in entities if entity.get("entity_type") == "slide"]


def _slide_names(hit: Mapping[str, Any], filename: str) -> frozenset[str]:
    """Return the names by which the slide's own entity may be called."""
    entities = _slides_among(hit)
    named = {str(entity.get(key)) for entity in entities for key in ENTITY if entity.get(key)}
    return frozenset(named or {Path(filename).stem.split(".")[0]})


ENTITY: Final = ("entity_id", "entity_submitter_id")


def _pruned(case: Mapping[str, Any], slide: frozenset[str]) -> dict[str, Any]:
    """Return a case with the slide's own sample, portion and slide, and its own diagnoses alone."""
    diagnoses = [
        each
        for each in _dicts(case.get("diagnoses"))
        if str(each.get("diagnosis_is_primary_disease", "")).lower() != "false"
    ]
    samples = _dicts(case.get("samples"))
    return {**case, "diagnoses": diagnoses, "samples": _own_sample(samples, slide)}


def _own_sample(
    samples: Sequence[Mapping[str, Any]], slide: frozenset[str]
) -> list[dict[str, Any]]:
    """Return the sample that the slide was cut from, pruned; none if it cannot be told."""
    for sample in samples:
        for portion in _dicts(sample.get("portions")):
            own = [each for each in _dicts(portion.get("slides")) if _is(each, slide)]
            if own:
                return [{**sample, "portions": [{**portion, "slides": own[:1]}]}]
    by_name = [
        sample
        for sample in samples
        for name in slide
        if sample.get("submitter_id") and name.startswith(str(sample["submitter_id"]))
    ]
    kinds = {
        (s.get("sample_type"), s.get("tissue_type"), s.get("tumor_descriptor")) for s in samples
    }
    likely = by_name or (list(samples) if len(kinds) == 1 else [])
    portions = _dicts(likely[0].get("portions")) if len(likely) == 1 else []
    kept = [{**portion, "slides": []} for portion in portions] if len(portions) == 1 else []
    return [{**likely[0], "portions": kept}] if likely else []


def _is(slide: Mapping[str, Any], names: frozenset[str]) -> bool:
    return bool({slide.get("slide_id"), slide.get("submitter_id")} & names)


def _sample_type(record: SlideRecord) -> str | None:
    worded = record.value("cases.samples.sample_type")
    if worded:
        return worded
    tissue = (record.value("cases.samples.tissue_type") or "").lower()
    if tissue == "normal":
        return SAMPLE_TYPES[NORMAL]
    if tissue != "tumor":
        return None
    descriptor = (record.value("cases.samples.tumor_descriptor") or "").lower()
    return DESCRIPTORS.get(descriptor, "Tumor")


def _contradiction(record: SlideRecord) -> str:
    """Name where the GDC's record and a TCGA file name disagree."""
    name = record.name
    if name is None:
        return ""
    if (record.value("cases.submitter_id") or name.patient_id) != name.patient_id:
        return f"the record's case is not {name.patient_id}"
    worded = _sample_type(record)
    if worded and name.is_normal != ("normal" in worded.lower()):
        return "sample type differs between record and file name"
    return ""


def _walk(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """Yield what stands at the end of ``path``, in every item of the lists on the way."""
    if isinstance(value, list):
        for item in value:
            yield from _walk(item, path)
    elif not path:
        if value is not None:
            yield value
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _walk(value[path[0]], path[1:])


def _dicts(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
