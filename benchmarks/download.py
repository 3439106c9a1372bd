"""How fast one big file arrives over loopback, beside curl in the same run.

    python benchmarks/download.py [--gigabytes 2] [--runs 3] [--folder FOLDER]

The server is the tests' stand-in, in its own process. Both clients write to the same disk.
"arrived" is the time from the server's first request to its last byte; "verified" is the whole
process, with md5 and fsync, and is set beside ``curl`` followed by ``md5sum``.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILE_ID = "00000000-0000-4000-8000-000000000001"
BLOCK = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Run:
    arrived_s: float
    verified_s: float
    peak_mib: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; the system's default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        size = int(given.gigabytes * 1e9)
        md5 = make_file(folder / "content", size)
        (folder / "manifest.txt").write_text(
            f"id\tfilename\tmd5\tsize\n{FILE_ID}\tbig.svs\t{md5}\t{size}\n"
        )
        server, url = start_server()
        try:
            tell(url, folder / "content", md5, size)
            pairs = [
                (with_curl(url, folder, md5), with_ours(url, folder)) for _ in range(given.runs)
            ]
        finally:
            server.kill()
    show(size, pairs)


def make_file(path: Path, size: int) -> str:
    """Write ``size`` bytes that are not compressible; return their md5."""
    digest = hashlib.md5()
    block = hashlib.shake_256(b"benchmark").digest(BLOCK)
    with path.open("wb") as file:
        for start in range(0, size, BLOCK):
            part = block[: size - start]
            file.write(part)
            digest.update(part)
    return digest.hexdigest()


def start_server() -> tuple[subprocess.Popen[str], str]:
    script = ROOT / "tests" / "gdc_server" / "server.py"
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, f"http://127.0.0.1:{int(process.stdout.readline())}"


def tell(url: str, content: Path, md5: str, size: int) -> None:
    held = {"file_id": FILE_ID, "file_name": "big.svs", "md5sum": md5, "file_size": size}
    ask(f"{url}/_set", {"files": [held | {"_content": str(content)}]})


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, data) as answer:
        return json.load(answer)


def arrival_s(url: str, since: int) -> tuple[float, int]:
    """Return the seconds from first request to last byte, and the log's length."""
    log = ask(f"{url}/_log")
    new = log[since:]
    return max(r["ended"] for r in new) - min(r["begun"] for r in new), len(log)


def with_curl(url: str, folder: Path, md5: str) -> Run:
    target, before = folder / "by-curl", len(ask(f"{url}/_log"))
    begun = time.monotonic()
    subprocess.run(
        ["curl", "-sf", "--noproxy", "*", "-o", str(target), f"{url}/data/{FILE_ID}"], check=True
    )
    found = subprocess.run(["md5sum", str(target)], check=True, capture_output=True, text=True)
    ended = time.monotonic()
    assert found.stdout.split()[0] == md5
    target.unlink()
    return Run(arrived_s=arrival_s(url, before)[0], verified_s=ended - begun)


def with_ours(url: str, folder: Path) -> Run:
    out, before = folder / "slides", len(ask(f"{url}/_log"))
    code = (
        "import resource, sys; from wsi_pipeline.download import main; code = main(sys.argv[1:]);"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            str(folder / "manifest.txt"),
            f"--out={out}",
            f"--server={url}",
        ],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    ended = time.monotonic()
    shutil.rmtree(out)
    peak = int(done.stdout.split()[-1]) / 1024
    return Run(arrived_s=arrival_s(url, before)[0], verified_s=ended - begun, peak_mib=peak)


def show(size: int, pairs: list[tuple[Run, Run]]) -> None:
    print(f"{size / 1e9:g} GB over loopback, MB/s; curl, ours, ratio")
    for curl, ours in pairs:
        print(
            f"  arrived {size / 1e6 / curl.arrived_s:7.0f} {size / 1e6 / ours.arrived_s:7.0f}"
            f" {curl.arrived_s / ours.arrived_s:5.2f}"
            f"   verified {size / 1e6 / curl.verified_s:7.0f} {size / 1e6 / ours.verified_s:7.0f}"
            f" {curl.verified_s / ours.verified_s:5.2f}   peak {ours.peak_mib:.0f} MiB"
        )
    arrived = statistics.median(curl.arrived_s / ours.arrived_s for curl, ours in pairs)
    verified = statistics.median(curl.verified_s / ours.verified_s for curl, ours in pairs)
    print(f"median ratio: arrived {arrived:.2f}, verified {verified:.2f}")


if __name__ == "__main__":
    main()
