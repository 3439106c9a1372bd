from .bucket import Bucket
from .client import Client, NoWayError
from .download import (
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
from .files import FileResult, RemoteFile, check_report_path, slide_ids, write_report
from .ledger import Ledger, remove_file, verify
from .progress import size_text, time_text
from .retry import RefusedError, RetryPolicy, StoppedError, TransientError

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
