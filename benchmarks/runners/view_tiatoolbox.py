"""TIAToolbox: its tile server, asked in its own process as Flask's test client does.

For each line of JSON on standard input, with a ``slide``, ``places`` of [z, column, row] and the
``seconds`` after which no more are asked for, it prints a line with the milliseconds of each.
"""

import json
import sys
import time
from typing import Any

ANSWERS, sys.stdout = sys.stdout, sys.stderr  # it may print of itself

from tiatoolbox.visualization.tileserver import TileServer  # noqa: E402


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(_waited(json.loads(line))), file=ANSWERS, flush=True)


def _waited(asked: dict[str, Any]) -> list[float]:
    client = TileServer("benchmark", [asked["slide"]]).test_client()
    waited: list[float] = []
    end = time.perf_counter() + asked["seconds"]
    for z, column, row in asked["places"]:
        if time.perf_counter() > end:
            break
        path = f"/tileserver/layer/slide/default/zoomify/TileGroup0/{z}-{column}-{row}@1x.jpg"
        begun = time.perf_counter()
        answer = client.get(path)
        waited.append(1000 * (time.perf_counter() - begun))
        if answer.status_code != 200:
            sys.exit(f"{path}: {answer.status}")
    return waited


if __name__ == "__main__":
    main()
