"""TIAToolbox: its tile server, asked in its own process as Flask's test client does.

SLIDE, and from standard input a list of [z, column, row] and the seconds after which no more are
asked for; prints the milliseconds that each took.
"""

import json
import sys
import time

from tiatoolbox.visualization.tileserver import TileServer


def main() -> None:
    asked = json.load(sys.stdin)
    client = TileServer("benchmark", [sys.argv[1]]).test_client()
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
    print(json.dumps(waited))


if __name__ == "__main__":
    main()
