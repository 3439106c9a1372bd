"""From a slide's record to a label, or to the reason why it gets none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.gdc.clinical import Condition, condition
from wsi_pipeline.gdc.records import SAMPLE_TYPES, SlideRecord

MORPHOLOGY: Final = "cases.diagnoses.morphology"


class TumourClass(BaseModel):
    """Tumour slides that meet everything said here get ``label``; what is left out allows all.

    ``where`` names columns or the GDC's fields, with a value, several, or a comparison each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    project: str | None = None
    morphologies: tuple[str, ...] = ()
    where: Mapping[str, Any] = Field(default={})

    @field_validator("where")
    @classmethod
    def _understood(cls, where: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            for fact, wanted in where.items():
                condition(fact, wanted)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return where

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(condition(fact, wanted) for fact, wanted in self.where.items())

    def is_of(self, project: str | None) -> bool:
        return self.project is None or self.project == project

    def takes(self, record: SlideRecord, morphologies: Sequence[str], *, alone: bool) -> bool:
        """Tell whether a slide of the right project is of this class.

        ``alone``: no other class could take it, so that a record without morphology will do.
        """
        if self.morphologies:
            if not morphologies:
                return alone
            if not set(morphologies) & set(self.morphologies):
                return False
        return all(each.met(record) is True for each in self.conditions)


class LabelRules(BaseModel):
    """How slides are labelled. Normal tissue is told by its sample, tumours by the classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[TumourClass, ...]
    exclude_morphologies: tuple[str, ...] = ("8171/3", "8180/3")
    normal_label: str | None = "normal"
    tumour_sample_types: tuple[str, ...] = Field(
        default=("Primary Tumor", "Recurrent Tumor"),
        description="Sample types that are tumour of the organ itself.",
    )

    @model_validator(mode="before")
    @classmethod
    def _codes(cls, values: Any) -> Any:
        """Understand the TCGA's sample codes, by which the types were named before."""
        if isinstance(values, dict) and "tumour_sample_codes" in values:
            codes = values["tumour_sample_codes"]
            rest = {key: value for key, value in values.items() if key != "tumour_sample_codes"}
            return {**rest, "tumour_sample_types": [SAMPLE_TYPES.get(c, c) for c in codes]}
        return values

    @property
    def fields(self) -> tuple[str, ...]:
        """The GDC's fields that the classes ask for."""
        conditions = [each for kind in self.classes for each in kind.conditions]
        return tuple(name for each in conditions for name in each.fields)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A label with what it rests on, or no label with the reason.

    ``labels`` are several where the rules contradict each other.
    """

    label: str | None
    basis: str
    labels: tuple[str, ...] = ()


def label_slide(record: SlideRecord, project: str | None, rules: LabelRules) -> Labelled:
    """Decide a slide's label.

    Args:
        record: What the GDC says of it.
        project: The project the file belongs to, for instance ``TCGA-LIHC``.
        rules: The classes and the morphologies left out.
    """
    kind = record.sample_type
    if kind is None:
        return Labelled(label=None, basis="the record does not say of which sample it is")
    if record.is_normal:
        basis = kind if rules.normal_label else "normal tissue not asked for"
        return Labelled(label=rules.normal_label, basis=basis)
    if kind not in rules.tumour_sample_types:
        return Labelled(label=None, basis=kind)
    near = [each for each in rules.classes if each.is_of(project)]
    if not near:
        return Labelled(label=None, basis=f"project {project or 'unknown'}")
    return _by_classes(near, record, rules)


def _by_classes(near: Sequence[TumourClass], record: SlideRecord, rules: LabelRules) -> Labelled:
    found = sorted(code for code in record.values(MORPHOLOGY) if code[:1].isdigit())
    excluded = [code for code in found if code in rules.exclude_morphologies]
    if excluded:
        return Labelled(label=None, basis=f"morphology {', '.join(excluded)}")
    alone = len({each.label for each in near}) == 1
    taking = [each for each in near if each.takes(record, found, alone=alone)]
    labels = tuple(dict.fromkeys(each.label for each in taking))
    if len(labels) > 1:
        return Labelled(label=None, basis="several classes take it", labels=labels)
    if not labels:
        by_facts = any(each.where for each in near)
        codes = ", ".join(found) or "not recorded"
        what = "no class takes it" if by_facts else f"morphology {codes}"
        return Labelled(label=None, basis=what)
    return Labelled(label=labels[0], basis=_basis(taking[0], found))


def _basis(kind: TumourClass, found: Sequence[str]) -> str:
    if kind.where:
        return " and ".join(str(each) for each in kind.conditions)
    return f"morphology {', '.join(found)}" if found else "project alone"
