"""Clinical facts about a slide: by name as columns of a cohort, and as conditions on them."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.gdc.records import SlideRecord
from wsi_pipeline.registry import Registry

SLIDE: Final = "cases.samples.portions.slides"
DIAGNOSIS: Final = "cases.diagnoses"
PERSON: Final = "cases.demographic"
DAYS_PER_YEAR: Final = 365.25


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the cohort table: what the first of ``fields`` that says something says."""

    fields: tuple[str, ...]
    convert: Callable[[str], str] = str

    def of(self, record: SlideRecord) -> str | None:
        found = record.value(*self.fields)
        return None if found is None else self.convert(found)


def _years(days: str) -> str:
    """Return whole years, as an age is told."""
    return str(int(float(days) / DAYS_PER_YEAR)) if _number(days) is not None else days


COLUMNS: Final = Registry(
    "clinical column",
    {
        "stage": Column(
            fields=(f"{DIAGNOSIS}.ajcc_pathologic_stage", f"{DIAGNOSIS}.ajcc_clinical_stage")
        ),
        "grade": Column(fields=(f"{DIAGNOSIS}.tumor_grade",)),
        "age": Column(fields=(f"{DIAGNOSIS}.age_at_diagnosis",), convert=_years),
        "sex": Column(
            fields=(f"{PERSON}.sex_at_birth", f"{PERSON}.gender"), convert=lambda text: text.lower()
        ),
        "vital_status": Column(fields=(f"{PERSON}.vital_status",)),
        "days_to_death": Column(fields=(f"{PERSON}.days_to_death",)),
        "days_to_last_follow_up": Column(fields=(f"{DIAGNOSIS}.days_to_last_follow_up",)),
        "primary_diagnosis": Column(fields=(f"{DIAGNOSIS}.primary_diagnosis",)),
        "percent_tumor_nuclei": Column(fields=(f"{SLIDE}.percent_tumor_nuclei",)),
        "percent_tumor_cells": Column(fields=(f"{SLIDE}.percent_tumor_cells",)),
        "percent_normal_cells": Column(fields=(f"{SLIDE}.percent_normal_cells",)),
        "percent_stromal_cells": Column(fields=(f"{SLIDE}.percent_stromal_cells",)),
        "percent_necrosis": Column(fields=(f"{SLIDE}.percent_necrosis",)),
        "percent_lymphocytes": Column(fields=(f"{SLIDE}.percent_lymphocyte_infiltration",)),
        "section_location": Column(fields=(f"{SLIDE}.section_location",)),
    },
)
OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
COMPARISON: Final = re.compile(r"\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?)\s*")
FILTER: Final = re.compile(r"\s*([\w.]+)\s*(>=|<=|!=|=|>|<)\s*(.+?)\s*")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a fact must be: one of ``values``, none of them, or a number that compares so.

    ``fact`` is a column's name, or a field of the GDC's, such as ``cases.diagnoses.tumor_grade``.
    """

    fact: str
    values: tuple[str, ...] = ()
    negated: bool = False
    compare: tuple[str, float] | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        return fields_of(self.fact)

    def met(self, record: SlideRecord) -> bool | None:
        """Tell whether it is met; None where the record says nothing."""
        if self.fact in COLUMNS:
            found = tuple(filter(None, [COLUMNS[self.fact].of(record)]))
        else:
            found = record.values(self.fact)
        if not found:
            return None
        if self.compare is not None:
            numbers = [number for text in found if (number := _number(text)) is not None]
            if not numbers:
                return None
            return any(OPERATORS[self.compare[0]](each, self.compare[1]) for each in numbers)
        wanted = {value.casefold() for value in self.values}
        return bool({text.casefold() for text in found} & wanted) != self.negated

    def __str__(self) -> str:
        if self.compare is not None:
            return f"{self.fact} {self.compare[0]} {self.compare[1]:g}"
        return f"{self.fact} {'not ' if self.negated else ''}{' or '.join(self.values)}"


def fields_of(fact: str) -> tuple[str, ...]:
    """Return the GDC's fields that a column, or a field itself, is read from.

    Raises:
        ConfigError: It is neither.
    """
    if "." in fact:
        return (fact,)
    return COLUMNS.choose(fact).fields


def condition(fact: str, wanted: Any) -> Condition:
    """Make a condition of what a TOML table says: a value, several, or ``">= 60"``, ``"!= x"``.

    Raises:
        ConfigError: There is no such fact, or nothing is wanted of it.
    """
    fields_of(fact)
    if isinstance(wanted, str) and (match := COMPARISON.fullmatch(wanted)):
        return Condition(fact=fact, compare=(match[1], float(match[2])))
    several = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    values = [str(value).strip() for value in several]
    negated = len(values) == 1 and values[0].startswith("!=")
    values = [value.removeprefix("!=").strip() for value in values]
    if not values or not all(values):
        raise ConfigError(f'{fact}: say what it must be, for instance ">= 60" or a list of values')
    return Condition(fact=fact, values=tuple(values), negated=negated)


def parse_filter(text: str) -> Condition:
    """Make a condition of a flag: ``percent_tumor_nuclei>=60``, ``sex=female``, ``stage!=Stage I``.

    Raises:
        ConfigError: It cannot be understood.
    """
    match = FILTER.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"filter {text!r}: write NAME=VALUE, NAME!=VALUE or NAME>=NUMBER, for instance "
            "percent_tumor_nuclei>=60"
        )
    fact, sign, value = match.groups()
    if sign in OPERATORS and _number(value) is None:
        raise ConfigError(f"filter {text!r}: {value!r} is not a number")
    return condition(fact, value.split("|") if sign == "=" else f"{sign} {value}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
