"""TCGA slide names, read for what they say: patient, sample, tissue source site, preservation."""

import re
from dataclasses import dataclass
from typing import Final, Literal

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
