"""A stand-in for the GDC's API: its own process, real sockets, faults by plan, every byte logged.

    python tests/gdc_server/server.py

It prints its port, and is told what to hold by ``POST /_set`` with ``{"files", "versions",
"faults", "pace", "tokens", "at_most"}``; ``GET /_log`` returns a record for each request, with
the body bytes that were sent, once none is under way; ``GET /_sent`` their sum at this moment;
``POST /_hurry`` ends the pace.
"""

import io
import json
import os
import socket
import socketserver
import sys
import tarfile
import threading
import time
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from body import HangUpError, drip_headers, page, send_file, sleep_while_open
from catalogue import NOTE, BadRequestError, Catalogue
from faults import FaultPlan

NO_ACCESS = {"error": "You don't have access to the data"}
REASONS = {200: "OK", 206: "PARTIAL CONTENT", 302: "FOUND", 400: "BAD REQUEST", 403: "FORBIDDEN"}


class State:
    """What the server holds; replaced as a whole by ``/_set``."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.catalogue = Catalogue(told.get("files", []), told.get("versions"))
        self.faults = FaultPlan(told.get("faults", []))
        self.pace: float | None = told.get("pace")
        self.tokens: list[str] = told.get("tokens", [])
        self.at_most: int | None = told.get("at_most")
        self.serving = 0
        self.log: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    def crowded(self) -> dict[str, Any]:
        """Count one more request; return a fault if that is more than are served at once."""
        with self.lock:
            self.serving += 1
            crowded = self.at_most is not None and self.serving > self.at_most
        return {"do": "status", "status": 429, "html": False, "message": "busy"} if crowded else {}


class Handler(socketserver.BaseRequestHandler):
    """One connection: requests one after another until either side hangs up."""

    server: "Server"

    def handle(self) -> None:
        self.connection: socket.socket = self.request
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        try:
            while self._one():
                pass
        except (HangUpError, OSError):
            return

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.record["status"] = status
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'STATUS')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = self.connection.send(view)
            self.record["sent"] += sent
            view = view[sent:]

    def _one(self) -> bool:
        """Answer one request; return False when the client has hung up."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return False
        state = self.server.state
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        body = self._exactly(int(headers.get("content-length", 0)))
        url = urlsplit(target)
        path = unquote(url.path)
        if path.startswith("/_"):
            self._control(path, body)
            return True
        self.pace = state.pace
        self.record = {
            "method": method,
            "path": path,
            "range": headers.get("range"),
            "token": headers.get("x-auth-token"),
            "status": 0,
            "fault": None,
            "sent": 0,
            "connection": self.client_address[1],
            "begun": time.monotonic(),
            "ended": None,
        }
        fault = state.crowded() or state.faults.next(method, path)
        self.record["fault"] = fault.get("do")
        with state.lock:
            state.log.append(self.record)
        try:
            query = dict(parse_qsl(url.query, keep_blank_values=True))
            self._answer(state, (method, path), headers, query | {"_body": body}, fault)
        finally:
            with state.lock:
                state.serving -= 1
            self.record["ended"] = time.monotonic()
        return True

    def _answer(
        self,
        state: State,
        where: tuple[str, str],
        headers: dict[str, str],
        query: dict[str, Any],
        fault: dict[str, Any],
    ) -> None:
        if fault.get("do") == "stall_headers":
            sleep_while_open(self, fault.get("seconds", 3600))
        if fault.get("do") == "drip_headers":
            drip_headers(self, fault.get("interval", 0.05))
        instead = page(fault, headers.get("x-auth-token", ""))
        if instead is not None:
            status, extra, data = instead
            self.start(status, extra | {"Content-Length": str(len(data))})
            self.send(data)
            return
        token = headers.get("x-auth-token")
        if token is not None and token not in state.tokens:
            self._json(403, NO_ACCESS)
            return
        try:
            self._route(state, where, headers, query, fault)
        except BadRequestError as error:
            self._json(400, {"message": str(error)})

    def _route(
        self,
        state: State,
        where: tuple[str, str],
        headers: dict[str, str],
        query: dict[str, Any],
        fault: dict[str, Any],
    ) -> None:
        method, path = where
        name, _, rest = path.removeprefix("/v0").strip("/").partition("/")
        question = self._question(query)
        match method, name, rest:
            case "GET", "status", "":
                release = "Data Release 43.0 - May 07, 2025"
                self._json(200, {"status": "OK", "version": 1, "data_release": release})
            case _, "files", "":
                self._files(state, question)
            case _, "files", _ if rest.split("/")[0] == "versions":
                ids = question.get("ids") or rest.partition("/")[2].split(",")
                rows = state.catalogue.versions(ids)
                missing = {"message": f"not all of {len(ids)} ids were found"}
                self._json(*((200, rows) if rows is not None else (404, missing)))
            case "GET", "files", _ if rest in state.catalogue.by_id:
                found = state.catalogue.search(
                    {"filters": {"op": "=", "content": {"field": "file_id", "value": rest}}}
                )
                self._json(200, {"data": found["data"]["hits"][0], "warnings": {}})
            case _, "data", _:
                self._data(state, question.get("ids") or rest.split(","), headers, fault, question)
            case _, "annotations", "":
                notes = state.catalogue.annotations()
                self._json(200, {"data": {"hits": notes}, "warnings": {}})
            case _, "manifest", _:
                ids = question.get("ids") or rest.split(",")
                ids = ids.split(",") if isinstance(ids, str) else ids
                files = [state.catalogue.by_id[i] for i in ids if i in state.catalogue.by_id]
                self._bytes(200, state.catalogue.manifest(files), "text/tab-separated-values")
            case _:
                self._json(404, {"message": f"The requested URL {path} was not found"})

    def _files(self, state: State, question: dict[str, Any]) -> None:
        if question.get("return_type") == "manifest":
            files = state.catalogue.select(question)
            self._bytes(200, state.catalogue.manifest(files), "text/tab-separated-values")
        else:
            self._json(200, state.catalogue.search(question))

    def _data(
        self,
        state: State,
        ids: Any,
        headers: dict[str, str],
        fault: dict[str, Any],
        question: dict[str, Any],
    ) -> None:
        """Send one file as it is; several, or one with what goes with it, as a tar."""
        ids = ids.split(",") if isinstance(ids, str) else ids
        if question.get("related_files") in ("true", "1"):
            ids = [*ids, *state.catalogue.related(ids)]
        files = [state.catalogue.by_id.get(file_id) for file_id in ids]
        if fault.get("do") == "missing" or not all(files):
            self._json(404, {"message": f"{ids[0]} not found"})
            return
        known = [file for file in files if file is not None]
        token = headers.get("x-auth-token")
        if token is None and any(file.get("access") == "controlled" for file in known):
            self._json(403, NO_ACCESS)
        elif len(known) == 1 and not {"tarfile", "compress"} & question.keys():
            send_file(self, known[0], headers, fault)
        else:
            plain = "tarfile" in question
            kind = "application/x-tar" if plain else "application/tar+gzip"
            self._bytes(200, _bundle(state.catalogue, known, plain=plain), kind)

    def _control(self, path: str, body: bytes) -> None:
        self.record = {"sent": 0}
        if path == "/_set":
            self.server.state = State(json.loads(body))
            self._json(200, {})
            return
        state = self.server.state
        if path == "/_hurry":
            state.pace = None
            self._json(200, {})
            return
        if path == "/_sent":
            self._json(200, sum(record["sent"] for record in state.log))
            return
        deadline = time.monotonic() + 2.0
        while any(record["ended"] is None for record in state.log):
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        self._json(200, state.log)

    def _question(self, query: dict[str, Any]) -> dict[str, Any]:
        body = query.pop("_body")
        try:
            question = dict(query) | (json.loads(body) if body else {})
            if isinstance(question.get("filters"), str):
                question["filters"] = json.loads(question["filters"])
        except ValueError:
            raise BadRequestError("malformed JSON") from None
        return question

    def _json(self, status: int, value: Any) -> None:
        self._bytes(status, json.dumps(value).encode(), "application/json")

    def _bytes(self, status: int, data: bytes, kind: str) -> None:
        self.start(status, {"Content-Type": kind, "Content-Length": str(len(data))})
        self.send(data)

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            data = self.connection.recv(65536)
            if not data:
                return None
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(mark)
        return head

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self.connection.recv(65536)
            if not data:
                raise HangUpError
            self._buffer += data
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128
    state = State({})


def _bundle(catalogue: Catalogue, files: list[dict[str, Any]], *, plain: bool) -> bytes:
    """Return several files as the GDC packs them: a tar or tar.gz with ``MANIFEST.txt``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w" if plain else "w:gz") as tar:
        notes = catalogue.annotations(files)
        if notes:
            rows = [[str(note.get(name, "")) for name in NOTE] for note in notes]
            text = "\n".join("\t".join(row) for row in [NOTE, *rows]).encode()
            member = tarfile.TarInfo("annotations.txt")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
        manifest = tarfile.TarInfo("MANIFEST.txt")
        text = catalogue.manifest(files)
        manifest.size = len(text)
        tar.addfile(manifest, io.BytesIO(text))
        for file in files:
            tar.add(file["_content"], f"{file['file_id']}/{file['file_name']}")
    return out.getvalue()


def main() -> None:
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        server.serve_forever()


def _end_with_parent() -> None:
    """Leave when the process that started the server is gone."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
