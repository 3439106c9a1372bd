"""What the environment says about the way out: proxies, and the authorities that are believed.

The names are those that curl, requests and Python's own urllib know, so that what works for them
works here.
"""

import os
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import certifi
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url
from urllib3.util.ssl_ import create_urllib3_context

from wsi_pipeline.errors import UsageError

BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
SOCKS: Final = {"socks": "socks5", "socks4": "socks4", "socks4a": "socks4a"} | {
    "socks5": "socks5",
    "socks5h": "socks5h",
}


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A proxy's address without its credentials, which are shown nowhere."""

    url: str
    name: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def is_socks(self) -> bool:
        return self.url.startswith("socks")

    @property
    def credentials(self) -> str | None:
        """``name:password``, decoded."""
        return None if self.name is None else f"{self.name}:{self.password or ''}"


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy that the environment names for ``url``.

    ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy`` count, in small letters or
    capitals; one without a scheme is an HTTP proxy.

    Raises:
        UsageError: It cannot be understood.
    """
    there = parse_url(url)
    named = urllib.request.getproxies()
    found = named.get(there.scheme or "") or named.get("all")
    if not found or urllib.request.proxy_bypass(there.netloc or ""):
        return None
    return parse_proxy(found)


def parse_proxy(text: str) -> Proxy:
    """Take a proxy's address apart.

    Raises:
        UsageError: It is none; what it says is not repeated, for it may hold a password.
    """
    try:
        parsed = parse_url(text if "://" in text else f"http://{text}")
    except LocationParseError:
        raise UsageError(
            "the proxy that the environment names is no address such as http://proxy:3128"
        ) from None
    scheme = SOCKS.get(parsed.scheme or "", parsed.scheme)
    if not parsed.host or scheme not in ("http", "https", *SOCKS.values()):
        raise UsageError(
            f"the proxy that the environment names is a {scheme}:// address; known are http://, "
            "https:// and socks5://"
        )
    port = f":{parsed.port}" if parsed.port else ":1080" if scheme in SOCKS.values() else ""
    name, _, password = (parsed.auth or "").partition(":")
    return Proxy(
        url=f"{scheme}://{parsed.host}{port}",
        name=unquote(name) if parsed.auth else None,
        password=unquote(password) if parsed.auth else None,
    )


def secrets_of_the_environment() -> Iterator[str]:
    """Yield the proxies' passwords, which must not be shown."""
    for text in urllib.request.getproxies().values():
        auth = text.rpartition("@")[0].rpartition("/")[2]
        password = auth.partition(":")[2]
        yield from {password, unquote(password)} - {""}


def tls_context() -> ssl.SSLContext:
    """Return a context that believes whom the environment names, by default certifi's authorities.

    ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE`` and ``SSL_CERT_FILE`` name a file, ``SSL_CERT_DIR``
    one folder or several; the first of them that is set counts, the last two also together.

    Raises:
        UsageError: What is named is not there, or holds no certificate.
    """
    context = create_urllib3_context()
    name = next((name for name in BUNDLES if os.environ.get(name)), None)
    if name is None:
        context.load_verify_locations(certifi.where())
        return context
    names = BUNDLES[2:] if name in BUNDLES[2:] else (name,)
    for name in names:
        value = os.environ.get(name, "")
        for part in value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value]:
            if part:
                _believe(context, name, Path(part))
    return context


def _believe(context: ssl.SSLContext, name: str, path: Path) -> None:
    try:
        if path.is_dir():
            context.load_verify_locations(capath=str(path))
        else:
            context.load_verify_locations(cafile=str(path))
    except OSError as error:  # ssl.SSLError is one: the file holds no certificate
        reason = error.strerror or str(error)
        raise UsageError(f"{name} names {path}, which cannot be used: {reason}") from None
