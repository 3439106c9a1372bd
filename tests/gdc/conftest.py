"""The GDC stand-in as a fixture: one process for all tests, told anew by each."""

import hashlib
import json
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from wsi_pipeline.gdc import ManifestEntry, write_manifest
from wsi_pipeline.remote.proxies import BUNDLES

CONTROL = httpx.Client(trust_env=False, verify=False, timeout=10)
SERVER = Path(__file__).parents[1] / "gdc_server" / "server.py"


@dataclass(kw_only=True)
class StandIn:
    """The server's address and what it was told; ``log`` is what it did."""

    url: str
    folder: Path
    files: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    pace: float | None = None
    tokens: list[str] = field(default_factory=list)
    at_most: int | None = None

    def add(self, size: int, name: str | None = None, **more: Any) -> ManifestEntry:
        """Hold a file of ``size`` random bytes, the same in every run."""
        number = len(self.files)
        data = random.Random(f"{number} {size}").randbytes(size)
        path = self.folder / f"content-{number}"
        path.write_bytes(data)
        return self.hold(path, name or f"slide-{number}.svs", hashlib.md5(data).hexdigest(), **more)

    def hold(self, path: Path, name: str, md5: str, **more: Any) -> ManifestEntry:
        number = len(self.files)
        record = {
            "file_id": str(uuid.UUID(int=0x1000 + number, version=4)),
            "file_name": name,
            "md5sum": md5,
            "file_size": path.stat().st_size,
            "state": "released",
            "access": "open",
            "_content": str(path),
        } | more
        self.files.append(record)
        return ManifestEntry(
            id=record["file_id"],
            filename=record["file_name"],
            md5=record["md5sum"],
            size=record["file_size"],
            state=record["state"],
        )

    def fault(self, do: str, **more: Any) -> None:
        self.faults.append({"match": "/data/", "do": do} | more)

    def tell(self) -> None:
        """Hand what is held over to the server; its log begins anew."""
        told = {
            "files": self.files,
            "versions": self.versions,
            "faults": self.faults,
            "pace": self.pace,
            "tokens": self.tokens,
            "at_most": self.at_most,
        }
        CONTROL.post(f"{self.url}/_set", json=told).raise_for_status()

    def faster(self) -> None:
        """Give up the pace; the log goes on."""
        CONTROL.post(f"{self.url}/_hurry").raise_for_status()

    def progress(self) -> int:
        """Return the body bytes sent so far, whatever is under way."""
        return int(CONTROL.get(f"{self.url}/_sent").json())

    def log(self, path: str = "/data/") -> list[dict[str, Any]]:
        """Return the records of requests to ``path``, once none is under way."""
        records = CONTROL.get(f"{self.url}/_log").json()
        return [record for record in records if record["path"].startswith(path)]

    def sent(self) -> int:
        """Return the body bytes sent from ``/data``."""
        return sum(record["sent"] for record in self.log())


@pytest.fixture(scope="session")
def _server() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.kill()
    process.wait()


@pytest.fixture
def stand_in(_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", *BUNDLES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    folder = tmp_path / "server"
    folder.mkdir()
    return StandIn(url=_server, folder=folder)


@pytest.fixture
def manifest(tmp_path: Path) -> Any:
    """A function that writes entries to a manifest file and returns its path."""

    def write(entries: list[ManifestEntry]) -> Path:
        path = tmp_path / "manifest.txt"
        write_manifest(path, entries)
        return path

    return write


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
