"""``/data/<id>``: a file's bytes, right or wrong in every way a fault plan can ask for."""

import gzip
import hashlib
import json
import os
import re
import socket
import struct
import time
from pathlib import Path
from typing import Any, BinaryIO, Protocol

BLOCK = 1 << 20
PACED_BLOCK = 16 << 10
HTML = (
    b"<!DOCTYPE html><html><head><title>GDC is under maintenance</title></head>"
    b"<body><h1>Back soon</h1></body></html>"
)


class Wire(Protocol):
    """What a request handler offers: its socket, and the counter of body bytes."""

    connection: socket.socket
    record: dict[str, Any]
    pace: float | None

    def start(self, status: int, headers: dict[str, str]) -> None: ...
    def send(self, data: bytes) -> None: ...


class HangUpError(Exception):
    """The answer ends here, and so does the connection."""


def send_file(
    wire: Wire, file: dict[str, Any], headers: dict[str, str], fault: dict[str, Any]
) -> None:
    """Answer a GET of one file, with what ``fault`` asks for."""
    path = Path(file["_content"])
    size = path.stat().st_size
    kind = fault.get("do")
    if kind == "slow":
        wire.pace = fault["pace"]
    if kind == "truncate":
        size -= fault.get("drop", 100)
        file = file | {"md5sum": hashlib.md5(path.read_bytes()[:size]).hexdigest()}
    deaf = kind == "ignore_range" or fault.get("deaf")
    asked = None if deaf else parse_range(headers.get("range"))
    with path.open("rb") as content:
        if asked is None:
            out = _headers(file, fault) | {"Content-Length": str(size)}
            _send_part(wire, content, (0, size, 200), out, fault)
            return
        start, end = asked[0], min(size, size if asked[1] is None else asked[1] + 1)
        if start >= size:
            wire.start(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
            return
        end = min(size, end + fault.get("range_by", 0))
        shift = fault.get("shift", 0)
        out = _headers(file, fault) | {
            "Content-Length": str(end - start),
            "Content-Range": f"bytes {start + shift}-{end - 1 + shift}/{size}",
        }
        _send_part(wire, content, (start + shift, end + shift, 206), out, fault)


def _headers(file: dict[str, Any], fault: dict[str, Any]) -> dict[str, str]:
    name = fault.get("name", f"attachment; filename={file['file_name']}")
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": name,
        "Content-MD5": fault.get("md5", file["md5sum"]),
        "Accept-Ranges": "bytes",
    }
    return {key: value for key, value in headers.items() if value is not None}


def _send_part(
    wire: Wire,
    content: BinaryIO,
    part: tuple[int, int, int],
    headers: dict[str, str],
    fault: dict[str, Any],
) -> None:
    start, end, status = part
    kind, after = fault.get("do"), fault.get("after", 0)
    if kind == "gzip":
        content.seek(start)
        data = gzip.compress(content.read(end - start), 1)
        wire.start(status, headers | {"Content-Encoding": "gzip", "Content-Length": str(len(data))})
        wire.send(data)
        return
    if kind in ("no_length", "extra"):
        del headers["Content-Length"]
        headers["Connection"] = "close"
    wire.start(status, headers)
    if kind in ("reset", "close", "stall_body", "trickle"):
        copy(wire, content, start, min(end, start + after))
        _break(wire, content, start + after, end, fault)
    elif kind == "flip":
        content.seek(start)
        data = bytearray(content.read(end - start))
        data[len(data) // 2] ^= 0xFF
        wire.send(bytes(data))
    else:
        copy(wire, content, start, end)
    if kind == "extra":
        wire.send(b"x" * fault.get("bytes", 1000))
    if kind in ("no_length", "extra"):
        raise HangUpError


def _break(wire: Wire, content: BinaryIO, at: int, end: int, fault: dict[str, Any]) -> None:
    """Go wrong in the middle of a body."""
    match fault["do"]:
        case "reset":
            linger = struct.pack("ii", 1, 0)
            wire.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            time.sleep(fault.get("settle", 0.2))  # what was sent may arrive before the reset
        case "stall_body":
            sleep_while_open(wire, fault.get("seconds", 3600))
        case "trickle":
            content.seek(at)
            while at < end and sleep_while_open(wire, fault.get("interval", 1.0)):
                wire.send(content.read(1))
                at += 1
    raise HangUpError


def drip_headers(wire: Wire, interval: float) -> None:
    """Send the header of an answer byte by byte, without end."""
    wire.send(b"HTTP/1.1 200 OK\r\nX-Endless: ")
    while sleep_while_open(wire, interval):
        wire.send(b"x")
    raise HangUpError


def sleep_while_open(wire: Wire, seconds: float) -> bool:
    """Wait; return False as soon as the other side has hung up."""
    wire.connection.settimeout(seconds)
    try:
        return bool(wire.connection.recv(1))
    except TimeoutError:
        return True
    except OSError:
        return False
    finally:
        wire.connection.settimeout(None)


def copy(wire: Wire, content: BinaryIO, start: int, end: int) -> None:
    """Send bytes ``start`` up to ``end`` of a file, at the pace asked for."""
    if wire.pace:
        content.seek(start)
        while start < end:
            data = content.read(min(PACED_BLOCK, end - start))
            wire.send(data)
            start += len(data)
            time.sleep(len(data) / wire.pace)
        return
    while start < end:
        sent = os.sendfile(
            wire.connection.fileno(), content.fileno(), start, min(BLOCK, end - start)
        )
        if sent == 0:
            raise HangUpError
        wire.record["sent"] += sent
        start += sent


def parse_range(text: str | None) -> tuple[int, int | None] | None:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", text or "")
    return (int(match[1]), int(match[2]) if match[2] else None) if match else None


def page(fault: dict[str, Any], token: str) -> tuple[int, dict[str, str], bytes] | None:
    """Return the status, headers and body of a fault that answers something else altogether.

    A ``message`` and a redirect may repeat the ``token`` that the client sent.
    """
    headers: dict[str, str] = {}
    if "retry_after" in fault:
        headers["Retry-After"] = fault["retry_after"]
    match fault.get("do"):
        case "status" if fault.get("html", True):
            return fault["status"], headers | {"Content-Type": "text/html"}, HTML
        case "status":
            said = fault.get("message", "no").replace("{token}", token)
            body = json.dumps({"message": said}).encode()
            return fault["status"], headers | {"Content-Type": "application/json"}, body
        case "html_200":
            return 200, headers | {"Content-Type": "text/html; charset=utf-8"}, HTML
        case "json_200":
            body = json.dumps({"error": "internal: shard 3 is unavailable"}).encode()
            return 200, headers | {"Content-Type": "application/json"}, body
        case "redirect":
            return (
                fault.get("status", 302),
                headers | {"Location": fault["to"].replace("{token}", token)},
                b"",
            )
    return None
