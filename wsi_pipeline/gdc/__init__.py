"""The Genomic Data Commons: manifests, a verified and resumable download, queries with labels."""

from wsi_pipeline.gdc.barcode import SlideName, parse_slide_name
from wsi_pipeline.gdc.client import GDC_API, GdcClient
from wsi_pipeline.gdc.download import Downloader, bytes_to_fetch, check_disk, outcome, slide_id
from wsi_pipeline.gdc.labels import Labelled, LabelRules, label_slide
from wsi_pipeline.gdc.manifest import Manifest, ManifestEntry, read_manifest, write_manifest
from wsi_pipeline.gdc.one_file import Settings
from wsi_pipeline.gdc.progress import TotalProgress, size_text, time_text
from wsi_pipeline.gdc.query import Found, GdcQuery, Selection, find_files, select
from wsi_pipeline.gdc.recipes import RECIPES, Recipe, RecipeName
from wsi_pipeline.gdc.resolve import Resolution, resolve
from wsi_pipeline.gdc.results import FileResult, check_report_path, write_report
from wsi_pipeline.gdc.retry import RefusedError, RetryPolicy, StoppedError, TransientError
from wsi_pipeline.gdc.token import read_token
from wsi_pipeline.gdc.verify import verify

__all__ = [
    "GDC_API",
    "RECIPES",
    "Downloader",
    "FileResult",
    "Found",
    "GdcClient",
    "GdcQuery",
    "LabelRules",
    "Labelled",
    "Manifest",
    "ManifestEntry",
    "Recipe",
    "RecipeName",
    "RefusedError",
    "Resolution",
    "RetryPolicy",
    "Selection",
    "Settings",
    "SlideName",
    "StoppedError",
    "TotalProgress",
    "TransientError",
    "bytes_to_fetch",
    "check_disk",
    "check_report_path",
    "find_files",
    "label_slide",
    "outcome",
    "parse_slide_name",
    "read_manifest",
    "read_token",
    "resolve",
    "select",
    "size_text",
    "slide_id",
    "time_text",
    "verify",
    "write_manifest",
    "write_report",
]
