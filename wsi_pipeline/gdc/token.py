"""The GDC's access token, from a file that only its owner can read."""

import stat
from pathlib import Path

from wsi_pipeline.errors import UsageError


def read_token(path: Path) -> str:
    """Read a token file.

    Raises:
        UsageError: It is missing, others can read it, or what it holds is no token.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8-sig").strip()
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such token file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the token file cannot be read ({error})") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            f"{path}: others can read this token (mode {stat.S_IMODE(mode):04o}), and it opens "
            f"everything you may see; run: chmod 600 {path}"
        )
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"{path}: a token file holds one line without spaces, as the portal gives")
    return text
