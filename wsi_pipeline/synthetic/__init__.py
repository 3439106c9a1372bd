"""A synthetic cohort: H&E-like slides that any whole-slide tool opens, drawn by a program.

Everything in it is invented; accuracy on it says nothing about medicine.
"""

from wsi_pipeline.synthetic.cohort import (
    COHORT,
    LABELS,
    TMA_COHORT,
    TMA_ID,
    CoreSpec,
    SlideSpec,
    plan_cohort,
    write_tables,
)
from wsi_pipeline.synthetic.slide import write_slide

__all__ = [
    "COHORT",
    "LABELS",
    "TMA_COHORT",
    "TMA_ID",
    "CoreSpec",
    "SlideSpec",
    "plan_cohort",
    "write_slide",
    "write_tables",
]
