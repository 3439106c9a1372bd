"""What is no array."""

from dataclasses import dataclass
from typing import Final, Literal

Modality = Literal["slide", "ct"]  # what a file is read as
LONGEST_ID: Final = 200  # bytes of a slide's id: names of files are made from it, of 255 at most
Icc = Literal["keep", "apply"]  # what is done with a slide's colour profile
CLINICAL: Final = (  # columns of the patient and of the slide, as a record says it; never needed
    "stage",
    "grade",
    "age",  # years
    "sex",
    "vital_status",
    "days_to_death",
    "days_to_last_follow_up",
    "primary_diagnosis",
    "percent_tumor_nuclei",
    "percent_tumor_cells",
    "percent_normal_cells",
    "percent_stromal_cells",
    "percent_necrosis",
    "percent_lymphocytes",
    "section_location",
    "warnings",  # what the source says against the use of the slide
    "licence",
    "source_doi",
)


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle in level-0 pixels; ``x``, ``y`` is its top-left corner."""

    x: int
    y: int
    width: int
    height: int
