"""A proxy, a SOCKS proxy and a TLS server, each in a few lines, to be asked by the downloader."""

import base64
import contextlib
import datetime
import http.server
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection in a thread of its own; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=guarded, args=(client,), daemon=True).start()

        def guarded(client: socket.socket) -> None:
            with client, contextlib.suppress(OSError):
                serve(client)

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]


def http_proxy(login: str, seen: list[str]) -> Callable[[socket.socket], None]:
    """Return a proxy that lets ``name:password`` through and writes down what it was asked."""
    expected = "Basic " + base64.b64encode(login.encode()).decode()

    def serve(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(65536)
            if not data:
                return
            head += data
        first, *lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        seen.append(first)
        if headers.get("proxy-authorization") != expected:
            text = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
            client.sendall(text)
            return
        method, target, _ = first.split(" ", 2)
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            with socket.create_connection((local(host), int(port))) as there:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                relay(client, there)
            return
        url = urlsplit(target)
        with socket.create_connection((local(url.hostname or ""), url.port or 80)) as there:
            kept = [line for line in lines if not line.lower().startswith(("proxy-", "connection"))]
            request = [f"{method} {url.path}?{url.query} HTTP/1.1", *kept, "Connection: close"]
            there.sendall(("\r\n".join(request) + "\r\n\r\n").encode("latin-1"))
            there.settimeout(2)
            relay(client, there)

    return serve


def socks_proxy(name: str, password: str, seen: list[str]) -> Callable[[socket.socket], None]:
    """Return a SOCKS5 proxy with a login (RFC 1928 and 1929), which resolves names itself."""

    def serve(client: socket.socket) -> None:
        count = exactly(client, 2)[1]
        exactly(client, count)
        client.sendall(b"\x05\x02")
        given = [exactly(client, exactly(client, 2)[1]), exactly(client, exactly(client, 1)[0])]
        right = given == [name.encode(), password.encode()]
        client.sendall(b"\x01" + (b"\x00" if right else b"\x01"))
        if not right:
            return
        kind = exactly(client, 4)[3]
        if kind == 3:
            host = exactly(client, exactly(client, 1)[0]).decode()
        else:
            host = socket.inet_ntoa(exactly(client, 4))
        (port,) = struct.unpack(">H", exactly(client, 2))
        seen.append(host)
        with socket.create_connection((local(host), port)) as there:
            client.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
            relay(client, there)

    return serve


def local(host: str) -> str:
    """Everything is here: the names are made up, so that only a proxy can know them."""
    return "127.0.0.1" if host.endswith(".invalid") else host


def exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += client.recv(count - len(data)) or b"\0" * count
    return data


def relay(one: socket.socket, other: socket.socket) -> None:
    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=copy, args=(other, one), daemon=True)
    back.start()
    forth = threading.Thread(target=copy, args=(one, other), daemon=True)
    forth.start()
    back.join()


def certificate(folder: Path, name: str) -> Path:
    """Write a self-signed certificate for ``name`` with its key; return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@contextlib.contextmanager
def tls_server(certified: Path) -> Iterator[int]:
    """Serve ``{"status": "OK"}`` over TLS; yield the port."""

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            data = b'{"status": "OK"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            return

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certified)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[assignment]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()
