"""Files that are elsewhere: fetched over HTTP, resumable, verified, and fair to the server."""

from wsi_pipeline.events import TotalProgress
from wsi_pipeline.remote.bucket import Bucket
from wsi_pipeline.remote.client import Client, NoWayError
from wsi_pipeline.remote.download import (
    Admit,
    Downloader,
    Elsewhere,
    Resolver,
    Settings,
    bytes_to_fetch,
    check_disk,
    make_folder,
    outcome,
)
from wsi_pipeline.remote.files import (
    FileResult,
    RemoteFile,
    check_report_path,
    slide_ids,
    write_report,
)
from wsi_pipeline.remote.ledger import Ledger, remove_file, verify
from wsi_pipeline.remote.progress import size_text, time_text
from wsi_pipeline.remote.retry import RefusedError, RetryPolicy, StoppedError, TransientError

__all__ = [
    "Admit",
    "Bucket",
    "Client",
    "Downloader",
    "Elsewhere",
    "FileResult",
    "Ledger",
    "NoWayError",
    "RefusedError",
    "RemoteFile",
    "Resolver",
    "RetryPolicy",
    "Settings",
    "StoppedError",
    "TotalProgress",
    "TransientError",
    "bytes_to_fetch",
    "check_disk",
    "check_report_path",
    "make_folder",
    "outcome",
    "remove_file",
    "size_text",
    "slide_ids",
    "time_text",
    "verify",
    "write_report",
]
