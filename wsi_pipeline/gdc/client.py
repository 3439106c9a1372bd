"""The GDC's door: its address, and the token that opens controlled files."""

import stat
from pathlib import Path
from typing import Final

from wsi_pipeline.errors import UsageError
from wsi_pipeline.remote import Client, RetryPolicy

GDC_API: Final = "https://api.gdc.cancer.gov"
TOKEN_HEADER: Final = "X-Auth-Token"  # noqa: S105 (the header's name)
ADVICE: Final = (
    "controlled-access files need --token-file, and an expired token is refused even for open files"
)


def gdc_client(
    server: str = GDC_API,
    *,
    token: str | None = None,
    policy: RetryPolicy | None = None,
    timeout_s: float = 60.0,
) -> Client:
    """Return a client of the GDC.

    Raises:
        UsageError: The server's address is none, or the token would go over the line unencrypted.
    """
    return Client(
        server,
        secret_headers={TOKEN_HEADER: token} if token else None,
        advice={401: ADVICE, 403: ADVICE},
        policy=policy,
        timeout_s=timeout_s,
    )


def read_token(path: Path) -> str:
    """Read the access token from a file that only its owner can read.

    Raises:
        UsageError: It is missing, others can read it, or what it holds is no token.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8-sig").strip()
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such token file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{path}: the token file cannot be read ({reason})") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            f"{path}: others can read this token (mode {stat.S_IMODE(mode):04o}), and it opens "
            f"everything you may see; run: chmod 600 {path}"
        )
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"{path}: a token file holds one line without spaces, as the portal gives")
    return text
