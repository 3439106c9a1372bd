"""A verb whose work dies of one slide, as of a crashing decoder: FOLDER, then slides."""

import sys
from pathlib import Path

from engine.work import act

from wsi_pipeline.engine import SlideTask, map_slides
from wsi_pipeline.screen import show
from wsi_pipeline.verbs.tiles import TileConfig

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tasks = [
        SlideTask(slide_id=name, lock=None, payload=(name, what, str(folder)))
        for name, what in (each.split("=") for each in sys.argv[2:])
    ]
    config = TileConfig(run=folder / "run", cohort=folder)
    sys.exit(show("tile", config, map_slides(act, tasks, config)))
