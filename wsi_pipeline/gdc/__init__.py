"""The Genomic Data Commons: manifests, ids that moved, queries with labels."""

from wsi_pipeline.gdc.barcode import SlideName, parse_slide_name
from wsi_pipeline.gdc.client import GDC_API, gdc_client, read_token
from wsi_pipeline.gdc.labels import Labelled, LabelRules, label_slide
from wsi_pipeline.gdc.manifest import Manifest, ManifestEntry, read_manifest, write_manifest
from wsi_pipeline.gdc.query import Found, GdcQuery, Selection, find_files, select
from wsi_pipeline.gdc.recipes import RECIPES, Recipe, RecipeName
from wsi_pipeline.gdc.resolve import Resolution, resolve

__all__ = [
    "GDC_API",
    "RECIPES",
    "Found",
    "GdcQuery",
    "LabelRules",
    "Labelled",
    "Manifest",
    "ManifestEntry",
    "Recipe",
    "RecipeName",
    "Resolution",
    "Selection",
    "SlideName",
    "find_files",
    "gdc_client",
    "label_slide",
    "parse_slide_name",
    "read_manifest",
    "read_token",
    "resolve",
    "select",
    "write_manifest",
]
