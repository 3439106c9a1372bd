"""The Genomic Data Commons: manifests, ids that moved, queries with labels."""

from wsi_pipeline.gdc.client import GDC_API, gdc_client, read_token
from wsi_pipeline.gdc.labels import Labelled, LabelRules, label_slide
from wsi_pipeline.gdc.manifest import (
    Manifest,
    ManifestEntry,
    read_manifest,
    read_manifests,
    write_manifest,
)
from wsi_pipeline.gdc.query import GdcQuery, Judged, Selection, ask, judge, select, slide_row
from wsi_pipeline.gdc.recipes import RECIPES, Recipe, RecipeName, caveats, summarise
from wsi_pipeline.gdc.records import SlideName, SlideRecord, parse_slide_name, read_record
from wsi_pipeline.gdc.resolve import Resolution, look_up, resolve
from wsi_pipeline.gdc.search import Found, find_files

__all__ = [
    "GDC_API",
    "RECIPES",
    "Found",
    "GdcQuery",
    "Judged",
    "LabelRules",
    "Labelled",
    "Manifest",
    "ManifestEntry",
    "Recipe",
    "RecipeName",
    "Resolution",
    "Selection",
    "SlideName",
    "SlideRecord",
    "ask",
    "caveats",
    "find_files",
    "gdc_client",
    "judge",
    "label_slide",
    "look_up",
    "parse_slide_name",
    "read_manifest",
    "read_manifests",
    "read_record",
    "read_token",
    "resolve",
    "select",
    "slide_row",
    "summarise",
    "write_manifest",
]
