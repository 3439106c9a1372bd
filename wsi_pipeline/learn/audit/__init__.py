"""What would make a good figure worthless, looked for before training.

Leaks (a patient, a slide or a tile on both sides of a split), nuisances (where, how and on what a
slide was made) that tell the label, and classes with too few patients for what is asked. The audit
of external slides goes by what identifies them (digest, thumbnail); their features stay sealed.
"""

from wsi_pipeline.learn.audit.check import Subject, audit_study, audit_table
from wsi_pipeline.learn.audit.evidence import Numbers, SlideEvidence, gather, identify
from wsi_pipeline.learn.audit.finding import Audit, Finding, Measured
from wsi_pipeline.learn.audit.groups import groups_csv, join_patients, read_groups
from wsi_pipeline.learn.audit.nuisances import find_nuisances
from wsi_pipeline.learn.audit.tiles import NEAR, TileVectors

__all__ = [
    "NEAR",
    "Audit",
    "Finding",
    "Measured",
    "Numbers",
    "SlideEvidence",
    "Subject",
    "TileVectors",
    "audit_study",
    "audit_table",
    "find_nuisances",
    "gather",
    "groups_csv",
    "identify",
    "join_patients",
    "read_groups",
]
