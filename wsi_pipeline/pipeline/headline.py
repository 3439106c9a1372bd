"""How a model did, in one line of the log."""

from collections.abc import Mapping
from typing import Any

from wsi_pipeline.events import Note


def headline(found: Mapping[str, Any], subject: str, measure: str, unit: str) -> Note | None:
    """Return ``subject: measure value (interval), so many units of so many patients``.

    Args:
        found: An evaluation, as ``metrics.json`` has it.
        subject: What was judged on what.
        measure: Key of a measure; None is returned where it is undefined.
        unit: What a case is, in the plural.
    """
    value = found["measures"][measure]
    if value["value"] is None:
        return None
    interval = ""
    if value["low"] is not None:
        interval = f" (95 % interval {value['low']:.3f} to {value['high']:.3f})"
    return Note(
        text=f"{subject}: {measure.replace('_', ' ')} {value['value']:.3f}{interval}, "
        f"{found['cases']} {unit} of {found['patients']} patients"
    )
