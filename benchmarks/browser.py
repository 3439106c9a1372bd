"""A page in a headless Chromium: how long until it is loaded, what it fetched, how it looks.

python -m benchmarks.browser PAGE [--shot PICTURE] [--width 1024]
"""

import argparse
import asyncio
import base64
import contextlib
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, websocket_connect

FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0", "--remote-allow-origins=*",
)  # fmt: skip
READY_S: Final = 30
LOADED: Final = """new Promise(done => {
  const tell = () => { const e = performance.getEntriesByType("navigation")[0];
    if (!e.loadEventEnd) return setTimeout(tell, 20);
    done(JSON.stringify({load: e.loadEventEnd, interactive: e.domInteractive,
      images: document.images.length,
      shown: [...document.images].filter(i => i.complete && i.naturalWidth).length,
      wide: document.documentElement.scrollWidth > document.documentElement.clientWidth})) };
  tell(); })"""
IN_SIGHT: Final = """new Promise(done => { let tries = 0; const look = () => {
  const seen = [...document.images].filter(i => { const box = i.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight; });
  seen.every(i => i.complete) || ++tries > 50 ? setTimeout(done, 300) : setTimeout(look, 100); };
  look(); })"""
EVERY_IMAGE: Final = """(async () => {
  const bad = [];
  for (const image of document.images) {
    image.loading = "eager";
    await image.decode().catch(() => bad.push(image.src.slice(-60))); }
  return JSON.stringify({images: document.images.length, missing: bad.length,
    first: bad.slice(0, 3)}) })()"""


class BrowserError(RuntimeError):
    """The browser refused a command."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """``load_s`` until the load event's end, ``images`` of the page and ``shown`` by then; ``wide``
    where it can be pushed sideways."""

    load_s: float
    interactive_s: float
    images: int
    shown: int
    wide: bool


@contextlib.contextmanager
def chromium(width: int = 1024, height: int = 900) -> Iterator[str]:
    """Start one with a fresh profile; yield the address at which it takes commands."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SystemExit("chromium is not installed")
    with tempfile.TemporaryDirectory() as profile:
        started = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port = _wait_for(Path(profile) / "DevToolsActivePort")
            yield f"http://127.0.0.1:{port}"
        finally:
            started.terminate()
            started.wait(10)
            time.sleep(0.2)


def open_page(page: Path, *, rounds: int = 3) -> list[Opened]:
    """Open the page so often, each time in a fresh browser."""
    found = []
    for _ in range(rounds):
        with chromium() as address:
            told = json.loads(asyncio.run(_visit(address, page, LOADED)))
        found.append(
            Opened(
                load_s=told["load"] / 1000,
                interactive_s=told["interactive"] / 1000,
                images=told["images"],
                shown=told["shown"],
                wide=told["wide"],
            )
        )
    return found


def fetch_all(page: Path) -> dict[str, Any]:
    """Fetch and decode what waits for one to scroll; say how many images there are, which fail."""
    with chromium() as address:
        found: dict[str, Any] = json.loads(asyncio.run(_visit(address, page, EVERY_IMAGE)))
    return found


def photograph(page: Path, picture: Path, width: int = 1024, anchor: str = "") -> None:
    """Write what stands at ``anchor`` (an id), or the head of the page, as PNG."""
    with chromium(width, 1400) as address:
        asyncio.run(_visit(address, page, LOADED, picture, anchor))


class Tab:
    """A page that stays open: scripts are run in it, keys pressed, pictures taken."""

    def __init__(self, url: str, width: int = 1280, height: int = 860) -> None:
        self._url, self._size = url, (width, height)
        self._number = 0

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._browser = chromium(*self._size)
        address = self._browser.__enter__()
        self._session = self._loop.run_until_complete(_connect(address))
        self.command("Page.navigate", url=self._url)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run_until_complete(_close(self._session))
        self._browser.__exit__(None, None, None)
        self._loop.close()

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol; return its result."""
        self._number += 1
        return self._loop.run_until_complete(_ask(self._session, self._number, method, **params))

    def run(self, script: str) -> Any:
        """Evaluate a script, wait for its promise, return its value."""
        told = self.command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in told:
            raise AssertionError(told["exceptionDetails"])
        return told["result"].get("value")

    def wait(self, script: str, seconds: float = READY_S) -> None:
        """Evaluate a script until it says something true."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(BrowserError):  # the page is just being left for another
                if self.run(f"!!({script})"):
                    return
            if time.monotonic() > end:
                raise AssertionError(f"after {seconds} s still not: {script}")
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press and release a key; a letter as a keyboard sends it, with its place and code."""
        told: dict[str, Any] = {"key": key}
        if key.isalpha() and len(key) == 1:
            told |= {"code": f"Key{key.upper()}", "windowsVirtualKeyCode": ord(key.upper())}
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, **told)

    def click(self, x: float, y: float) -> None:
        """Click at a place of the window, CSS px."""
        at = {"x": x, "y": y, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, **at)

    def shot(self, picture: Path) -> None:
        """Write what is seen, as PNG."""
        picture.write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))


async def _connect(address: str) -> WebSocketClientConnection:
    answer = await AsyncHTTPClient().fetch(f"{address}/json/list")
    tab = next(each for each in json.loads(answer.body) if each["type"] == "page")
    return await websocket_connect(tab["webSocketDebuggerUrl"], max_message_size=2**28)


async def _close(session: WebSocketClientConnection) -> None:
    session.close()  # which asks for the loop that it runs in


async def _visit(
    address: str, page: Path, script: str, picture: Path | None = None, anchor: str = ""
) -> str:
    session = await _connect(address)
    await _ask(session, 1, "Page.navigate", url=page.resolve().as_uri())
    await asyncio.sleep(0.3)
    told = await _ask(session, 2, "Runtime.evaluate", expression=script, awaitPromise=True)
    if picture is not None:
        if anchor:
            go = f"document.getElementById({anchor!r}).scrollIntoView()"
            await _ask(session, 3, "Runtime.evaluate", expression=go)
        await _ask(session, 5, "Runtime.evaluate", expression=IN_SIGHT, awaitPromise=True)
        shot = await _ask(session, 4, "Page.captureScreenshot", format="png")
        picture.write_bytes(base64.b64decode(shot["data"]))
    session.close()
    return str(told["result"]["value"])


async def _ask(
    session: WebSocketClientConnection, number: int, method: str, **params: Any
) -> dict[str, Any]:
    await session.write_message(json.dumps({"id": number, "method": method, "params": params}))
    while True:
        message = await session.read_message()
        if message is None:
            raise SystemExit("the browser went away")
        answer = json.loads(message)
        if answer.get("id") == number:
            if "error" in answer:
                raise BrowserError(answer["error"]["message"])
            found: dict[str, Any] = answer["result"]
            return found


def _wait_for(file: Path) -> str:
    for _ in range(READY_S * 10):
        if file.exists() and (lines := file.read_text().splitlines()):
            return lines[0]
        time.sleep(0.1)
    raise SystemExit("the browser did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--shot", type=Path)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--anchor", default="")
    asked = parser.parse_args()
    if asked.shot:
        photograph(asked.page, asked.shot, asked.width, asked.anchor)
        return
    found = open_page(asked.page)
    print(f"{asked.page}: {asked.page.stat().st_size / 1e6:.1f} MB")
    print(f"load {statistics.median(each.load_s for each in found):.2f} s, {found[0]}")
    print(f"all fetched: {fetch_all(asked.page)}")


if __name__ == "__main__":
    main()
