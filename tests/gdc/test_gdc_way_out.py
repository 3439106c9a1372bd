"""Out of a hospital's network: proxies with a login, certificates of its own, and kept secrets."""

import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from gdc_server.way_out import certificate, http_proxy, listening, socks_proxy, tls_server

from wsi_pipeline.download import main
from wsi_pipeline.errors import UsageError
from wsi_pipeline.gdc import gdc_client
from wsi_pipeline.remote import Client, NoWayError, RetryPolicy, TransientError
from wsi_pipeline.remote.client import Secrets
from wsi_pipeline.remote.proxies import parse_proxy

QUICK = RetryPolicy(attempts=2, first_wait_s=0.01)
FLAGS = ("--first-wait-s=0.01", "--attempts=2", "--timeout-s=5")
LOGIN = "pathology:p@ss/word:1"
QUOTED = "pathology:p%40ss%2Fword%3A1"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.dGhpcyBpcyBubyB0b2tlbg+/=.c2lnbmVkLWJ5LW5vYm9keQ"


@pytest.fixture(autouse=True)
def plain_environment(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start from no proxy and no certificate (the stand-in's fixture clears them)."""


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def proxy(seen: list[str]) -> Iterator[int]:
    with listening(http_proxy(LOGIN, seen)) as port:
        yield port


@pytest.fixture
def certified(tmp_path: Path) -> Path:
    return certificate(tmp_path, "gdc.invalid")


@pytest.mark.parametrize("scheme", ["http://", ""], ids=["with its scheme", "without"])
def test_a_proxy_that_asks_for_a_login(
    scheme: str, proxy: int, seen: list[str], stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.tell()
    monkeypatch.setenv("http_proxy", f"{scheme}{QUOTED}@127.0.0.1:{proxy}")
    port = stand_in.url.rpartition(":")[2]
    with Client(f"http://gdc.invalid:{port}", policy=QUICK, timeout_s=5) as client:
        assert client.ask("status")["status"] == "OK"
    assert seen == [f"GET http://gdc.invalid:{port}/status HTTP/1.1"]


def test_a_proxy_that_asks_for_a_login_on_the_way_to_an_encrypted_server(
    proxy: int, seen: list[str], certified: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", f"http://{QUOTED}@127.0.0.1:{proxy}")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certified))
    with tls_server(certified) as port:
        with Client(f"https://gdc.invalid:{port}", policy=QUICK, timeout_s=5) as client:
            assert client.ask("status") == {"status": "OK"}
        assert [line.split()[:2] for line in seen] == [["CONNECT", f"gdc.invalid:{port}"]]
        monkeypatch.setenv("https_proxy", f"http://pathology:wrong@127.0.0.1:{proxy}")
        with (
            Client(f"https://gdc.invalid:{port}", policy=QUICK, timeout_s=5) as client,
            pytest.raises(NoWayError, match="the proxy asks for a name and a password"),
        ):
            client.ask("status")
    assert len(seen) == 2, "a wrong password is not tried again"


def test_a_proxy_without_the_login_it_asks_for_ends_the_download_at_once(
    proxy: int,
    seen: list[str],
    manifest: Callable[..., Path],
    stand_in: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entries = [stand_in.add(1000) for _ in range(50)]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
    command = [str(manifest(entries)), f"--out={tmp_path / 'out'}", "--server=http://gdc.invalid"]
    assert main([*command, *FLAGS]) == 1
    assert "https_proxy=http://NAME:PASSWORD@HOST:PORT" in capsys.readouterr().err
    assert len(seen) <= 8


@pytest.mark.parametrize("name", ["all_proxy", "ALL_PROXY"])
def test_a_socks_proxy(
    name: str, seen: list[str], stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.tell()
    port = stand_in.url.rpartition(":")[2]
    with listening(socks_proxy("pathology", "p@ss", seen)) as socks:
        monkeypatch.setenv(name, f"socks5h://pathology:p%40ss@127.0.0.1:{socks}")
        with Client(f"http://gdc.invalid:{port}", policy=QUICK, timeout_s=5) as client:
            assert client.ask("status")["status"] == "OK"
    assert seen == ["gdc.invalid"], "the name is resolved by the proxy"


@pytest.mark.parametrize("text", ["ftp://proxy:21", "http://", "http://[::1"])
def test_a_proxy_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="the proxy that the environment names"):
        parse_proxy(text)


def test_a_proxys_password_is_shown_nowhere() -> None:
    proxy = parse_proxy(f"http://{QUOTED}@proxy.hospital:3128")
    assert (proxy.url, proxy.credentials) == ("http://proxy.hospital:3128", LOGIN)
    assert "word" not in repr(proxy)


@pytest.mark.parametrize(
    "name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"]
)
def test_a_certificate_of_the_hospitals_own(
    name: str, certified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = certified
    if name == "SSL_CERT_DIR":
        named = tmp_path / "authorities"
        named.mkdir()
        if shutil.which("openssl") is None:
            pytest.skip("a folder of certificates is made by openssl, which is not here")
        digest = ["openssl", "x509", "-hash", "-noout", "-in", str(certified)]
        found = subprocess.run(digest, check=True, capture_output=True, text=True).stdout.strip()
        shutil.copy(certified, named / f"{found}.0")
    with tls_server(certified) as port:
        server = f"https://127.0.0.1:{port}"
        with Client(server, policy=QUICK, timeout_s=5) as client, pytest.raises(NoWayError) as no:
            client.ask("status")
        assert "name its certificate in REQUESTS_CA_BUNDLE" in str(no.value)
        monkeypatch.setenv(name, str(named))
        with Client(server, policy=QUICK, timeout_s=5) as client:
            assert client.ask("status") == {"status": "OK"}


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), ("no certificate", "")])
def test_a_certificate_file_that_cannot_be_used(
    content: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("CURL_CA_BUNDLE", str(path))
    with pytest.raises(UsageError, match=f"CURL_CA_BUNDLE names {path}.*{said}"):
        Client("https://gdc.invalid")


def test_certificates_are_checked_by_default() -> None:
    from wsi_pipeline.remote.proxies import tls_context

    context = tls_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) > 50


@pytest.mark.parametrize(
    "fault",
    [
        {"do": "status", "status": 403, "message": "no access for {token}"},
        {"do": "status", "status": 500, "message": "x" * 190 + "{token}"},
        {"do": "redirect", "to": "/data/{token}"},
        {"do": "redirect", "to": "ftp://elsewhere/{token}"},
        {"do": "redirect", "to": "http://[{token}"},
    ],
    ids=["refused", "cut off in the middle", "round in circles", "not followed", "no address"],
)
def test_the_token_is_logged_nowhere_even_if_the_server_repeats_it(
    fault: dict[str, Any],
    stand_in: Any,
    manifest: Callable[..., Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    entry = stand_in.add(1000)
    stand_in.fault(fault.pop("do"), html=False, first=None, **fault)
    stand_in.tell()
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    out = tmp_path / "out"
    command = [str(manifest([entry])), f"--out={out}", f"--server={stand_in.url}", *FLAGS]
    assert main([*command, f"--token-file={token}"]) == 1
    assert any(record["token"] == TOKEN for record in stand_in.log())
    written = [path.read_text("utf-8", "replace") for path in out.rglob("*") if path.is_file()]
    assert any("failed" in text for text in written)
    for text in (*capfd.readouterr(), *written):
        for at in range(len(TOKEN) - 16):
            assert TOKEN[at : at + 16] not in text


def test_secrets_are_hidden_whole_quoted_and_in_parts() -> None:
    hide = Secrets([TOKEN, "abc"]).hide
    assert hide(f"a {TOKEN} b") == "a (hidden) b"
    assert hide(f"?token={quote(TOKEN, safe='')}&x=1") == "?token=(hidden)&x=1"
    assert hide(f"begins {TOKEN[:20]} and {TOKEN[-20:]}") == "begins (hidden) and (hidden)"
    assert hide("an ordinary abc sentence") == "an ordinary abc sentence"


def test_a_token_goes_over_an_encrypted_line_alone() -> None:
    with pytest.raises(UsageError, match="a token is sent over https:// alone"):
        gdc_client("http://api.gdc.cancer.gov", token="secret")
    gdc_client("https://api.gdc.cancer.gov", token="secret").close()


def test_an_answer_that_drips_does_not_block_a_question(stand_in: Any) -> None:
    stand_in.faults.append({"match": "/status", "do": "drip_headers", "first": None})
    stand_in.tell()
    with (
        Client(stand_in.url, policy=QUICK, timeout_s=0.2) as client,
        pytest.raises(TransientError, match=r"not complete after 0\.4 s"),
    ):
        client.ask("status")
