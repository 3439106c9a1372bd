"""From the GDC's answer about a file to a label, or to the reason why it gets none."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from wsi_pipeline.gdc.barcode import SlideName

FIELDS: Final = (
    "file_id",
    "file_name",
    "md5sum",
    "file_size",
    "state",
    "access",
    "data_format",
    "experimental_strategy",
    "cases.submitter_id",
    "cases.project.project_id",
    "cases.samples.sample_type",
    "cases.samples.tissue_type",
    "cases.samples.preservation_method",
    "cases.diagnoses.primary_diagnosis",
    "cases.diagnoses.morphology",
    "cases.diagnoses.diagnosis_is_primary_disease",
)


class TumourClass(BaseModel):
    """Tumour slides of ``project`` get ``label``; an empty ``morphologies`` allows every code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    project: str
    morphologies: tuple[str, ...] = ()


class LabelRules(BaseModel):
    """How slides are labelled. Normal tissue is told by its sample type, tumours by project and
    ICD-O-3 morphology."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[TumourClass, ...]
    exclude_morphologies: tuple[str, ...] = ("8171/3", "8180/3")
    normal_label: str | None = "normal"
    tumour_sample_codes: tuple[str, ...] = Field(
        default=("01", "02"), description="TCGA sample codes that are tumour of the organ itself."
    )


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A label with what it rests on, or no label with the reason."""

    label: str | None
    basis: str


def label_slide(
    name: SlideName, hit: Mapping[str, Any], project: str | None, rules: LabelRules
) -> Labelled:
    """Decide a slide's label.

    Args:
        name: What the file name says; it decides between tumour and normal.
        hit: The ``/files`` answer for the file; every key may be missing.
        project: The project the file belongs to, for instance ``TCGA-LIHC``.
        rules: Labels per project and the morphologies left out.
    """
    contradiction = _contradiction(name, hit)
    if contradiction:
        return Labelled(label=None, basis=contradiction)
    if name.is_normal:
        basis = "sample type 11" if rules.normal_label else "normal tissue not asked for"
        return Labelled(label=rules.normal_label, basis=basis)
    if name.sample_code not in rules.tumour_sample_codes:
        return Labelled(label=None, basis=name.sample_type)
    kind = next((kind for kind in rules.classes if kind.project == project), None)
    if kind is None:
        return Labelled(label=None, basis=f"project {project or 'unknown'}")
    return _by_morphology(kind, sorted(set(_morphologies(hit))), rules)


def project_of(hit: Mapping[str, Any]) -> str | None:
    for case in _dicts(hit.get("cases")):
        project = case.get("project")
        if isinstance(project, Mapping) and isinstance(project.get("project_id"), str):
            return str(project["project_id"])
    return None


def _by_morphology(kind: TumourClass, found: Sequence[str], rules: LabelRules) -> Labelled:
    excluded = [code for code in found if code in rules.exclude_morphologies]
    if excluded:
        return Labelled(label=None, basis=f"morphology {', '.join(excluded)}")
    if not found:
        return Labelled(label=kind.label, basis="project alone")
    if kind.morphologies and not set(found) & set(kind.morphologies):
        return Labelled(label=None, basis=f"morphology {', '.join(found)}")
    return Labelled(label=kind.label, basis=f"morphology {', '.join(found)}")


def _morphologies(hit: Mapping[str, Any]) -> Iterator[str]:
    """Yield the codes of the disease itself; other primaries of the patient are passed over."""
    for case in _dicts(hit.get("cases")):
        for diagnosis in _dicts(case.get("diagnoses")):
            primary = str(diagnosis.get("diagnosis_is_primary_disease", "")).lower()
            code = diagnosis.get("morphology")
            if isinstance(code, str) and code[:1].isdigit() and primary != "false":
                yield code


def _contradiction(name: SlideName, hit: Mapping[str, Any]) -> str | None:
    """Name where the GDC's record and the file name disagree."""
    cases = _dicts(hit.get("cases"))
    patients = {case["submitter_id"] for case in cases if case.get("submitter_id")}
    if patients and name.patient_id not in patients:
        return f"the record's case is not {name.patient_id}"
    kinds = {
        sample["sample_type"]
        for case in cases
        for sample in _dicts(case.get("samples"))
        if sample.get("sample_type")
    }
    if kinds and name.is_normal != ("Solid Tissue Normal" in kinds):
        return "sample type differs between record and file name"
    return None


def _dicts(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
