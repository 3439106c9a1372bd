"""What the page asks of a run folder, and where: an address each."""

from contextlib import suppress
from threading import Lock, Thread
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from wsi_pipeline.errors import SlideError, StoreError, WsiError
from wsi_pipeline.reporting import scanned_tile
from wsi_pipeline.slides import own_mpp
from wsi_pipeline.tiles import TileStore
from wsi_pipeline.workbench.answers import (
    A_WHILE,
    changed,
    coarse_share,
    jpeg_response,
    tile_response,
    told,
)
from wsi_pipeline.workbench.arrays import Arrays
from wsi_pipeline.workbench.deciding import Choice, decide
from wsi_pipeline.workbench.facts import RunFacts, in_order, layer_of, sentence
from wsi_pipeline.workbench.masks import Masks, Stroke
from wsi_pipeline.workbench.placing import CoreEdit
from wsi_pipeline.workbench.pyramid import SIDE, OpenSlides, SlideFile, levels_of
from wsi_pipeline.workbench.surveys import Surveys
from wsi_pipeline.workbench.training import TrainingTiles
from wsi_pipeline.workbench.walls import Kind, wall

NOVELTY = "novelty"  # layer that is worked out from features when it is asked for


class Decided(BaseModel):
    """A decision, as the page sends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choice: Literal["keep", "drop", "undo"]
    place: tuple[int, int] | None = None


class Undo(BaseModel):
    """The last change is to be taken back."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CoreMap(BaseModel):
    """A core map's file, as the page sends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    text: str


class Bench:
    """What the routes share."""

    def __init__(self, facts: RunFacts) -> None:
        self.facts = facts
        self.opened = OpenSlides()
        self.arrays = Arrays(facts)
        self.surveys = Surveys(facts, self.opened)
        self.masks = Masks(self.surveys)
        self.training = TrainingTiles(facts.folder)
        self._telling = Lock()
        self._table: tuple[object, dict[str, Any]] | None = None
        self._damage: tuple[object, dict[str, str]] | None = None
        self._lock = Lock()
        self._files: dict[str, SlideFile] = {}  # a table and a store are not read for each tile

    def routes(self) -> list[BaseRoute]:
        """Return the addresses at which it is answered."""
        slide, array = "/api/slides/{slide_id}", "/api/arrays/{slide_id}"
        tile = "{level:int}/{column:int}_{row:int}.jpg"
        return [
            Route("/api/cohort", told(self.cohort)),
            Route("/api/damage", told(self.damage)),
            Route("/api/wall/{model}/{kind}", told(self.wall)),
            Route(slide, told(self.slide)),
            Route(f"{slide}/tiles", told(self.tiles)),
            Route(f"{slide}/tiles/{{row:int}}", told(self.tile)),
            Route(f"{slide}/tiles/{{row:int}}/nearest/{{model}}", told(self.nearest)),
            Route(f"{slide}/layers/{NOVELTY}/{{model}}", told(self.novelty)),
            Route(f"{slide}/layers", told(self.layer)),
            Route(f"{slide}/decisions", told(self.decided)),
            Route(f"{slide}/decisions", changed(Decided, self.decide), methods=["POST"]),
            Route(f"{slide}/rejected", told(lambda asked: self.surveys.rejected(_id(asked)))),
            Route(f"{slide}/annotations", told(lambda asked: self.surveys.annotations(_id(asked)))),
            Route(f"{slide}/mask", told(lambda asked: self.masks.told(_id(asked)))),
            Route(f"{slide}/mask", changed(Stroke, self.draw), methods=["POST"]),
            Route(f"{slide}/mask/undo", changed(Undo, self.undraw), methods=["POST"]),
            Route(array, told(self.array)),
            Route(array, changed(CoreEdit, self.place, self.redraw), methods=["POST"]),
            Route(f"{array}/undo", changed(Undo, self.unplace, self.redraw), methods=["POST"]),
            Route(f"{array}/map", changed(CoreMap, self.join, self.redraw), methods=["POST"]),
            Route(f"/slides/{{slide_id}}/{tile}", told(self.pixels)),
            Route(f"/arrays/{{slide_id}}/{tile}", told(self.array_pixels)),
            Route("/slides/{slide_id}/share", told(self.share)),
            Route("/arrays/{slide_id}/share", told(self.array_share)),
            Route("/tiles/{slide_id}/{row:int}/{how}.jpg", told(self.tile_picture)),
            Route("/tiles/{slide_id}/at/{x:int}_{y:int}.jpg", told(self.tile_at)),
            Route("/thumbnails/{slide_id}.jpg", told(self.thumbnail)),
        ]

    def warm(self) -> None:
        """Work out in the background what the page will ask for first."""

        def work() -> None:
            with suppress(WsiError):  # who asks is told what is wrong
                with self._telling:
                    table = self._known_table()
                # what reads slides is loaded with the first one, while the browser starts
                file = next((self._at_hand(row["id"]) for row in table["slides"][:1]), None)
                if file is not None:
                    with self.opened.use(file):
                        pass

        Thread(target=work, daemon=True).start()

    def cohort(self, _: Request) -> dict[str, Any]:
        """Tell the table; hundreds of stores are not asked again while the run is as it was."""
        with self._telling:
            table = self._known_table()
        return table | {"arrays": self.arrays.summaries(), "trained": self.training.models()}

    def _known_table(self) -> dict[str, Any]:
        state = self.facts.state()
        known = self._damage[1] if self._damage and self._damage[0] == state else None
        if self._table is None or self._table[0] != (state, known is None):
            table = self.facts.table(known) | {"checked": known is not None}
            self._table = ((state, known is None), table)
        return self._table[1]

    def damage(self, asked: Request) -> dict[str, Any]:
        """Open every store, which takes seconds; tell the table with those that are damaged."""
        state = self.facts.state()
        with self._lock:
            if self._damage is None or self._damage[0] != state:
                self._damage = (state, self.facts.damage())
        return self.cohort(asked)

    def slide(self, request: Request) -> dict[str, Any]:
        """Tell a slide's size and resolution, whether its pixels are here, and what is decided."""
        slide_id = _id(request)
        store, damaged = self._store(slide_id)
        about = {} if store is None else store.attributes
        said: dict[str, Any] = {
            "id": slide_id,
            "mpp": about.get("mpp_native"),
            "tiles": None if store is None else len(store),
            "counts": about.get("counts", {}),
            "flags": list(about.get("flags", ())),
            "damaged": damaged,
            "decided": self.facts.decided(slide_id, store),
            "thumbnail": self.facts.folder.thumbnail(slide_id).exists(),
            "novelty": {model: round(one.novelty, 3)
                        for model, one in self.facts.predictions(slide_id)
                        if np.isfinite(one.novelty)},
        }  # fmt: skip
        file = self.facts.file_of(slide_id, store)
        if isinstance(file, str):
            return said | {"missing": file}
        found = self._opened(file)
        size = (found.get("width"), found.get("height"))
        known = tuple(about.get(f"level0_{name}", found.get(name)) for name in ("width", "height"))
        if known != size and "missing" not in found:
            other = f"{file.path} is another slide: {size[0]} × {size[1]} px, not {known[0]} × "
            return said | {"missing": other + str(known[1])}
        return said | {name: v for name, v in found.items() if name != "mpp" or said["mpp"] is None}

    def tiles(self, request: Request) -> dict[str, Any]:
        return self.facts.tiles(_id(request))

    def tile(self, request: Request) -> dict[str, Any]:
        return self.facts.tile(_id(request), request.path_params["row"])

    def layer(self, request: Request) -> dict[str, Any]:
        return self.facts.layer(_id(request), request.query_params.get("name", ""))

    def novelty(self, request: Request) -> dict[str, Any]:
        """Tell how far each tile is from the model's training tiles."""
        slide_id, model = _id(request), request.path_params["model"]
        store, _ = self._store(slide_id)
        if store is None:
            raise StoreError(f"{slide_id}: it has no tiles")
        features, coords = self.training.features(self._trained(model), slide_id)
        values = self.training.bank(model).novelty(features, self._patient(slide_id))
        return layer_of(in_order(values, coords, store.coords))

    def nearest(self, request: Request) -> list[dict[str, Any]]:
        """Tell the training tiles nearest to a tile, of other patients."""
        slide_id, model = _id(request), self._trained(request.path_params["model"])
        store, _ = self._store(slide_id)
        row = request.path_params["row"]
        if store is None or not 0 <= row < len(store):
            raise StoreError(f"{slide_id}: it has no tile {row}")
        features, coords = self.training.features(model, slide_id)
        at = np.flatnonzero((coords == store.coords[row]).all(axis=1))
        if not len(at):
            raise StoreError(f"{slide_id}: the tile has no features; it was left out")
        return self.training.bank(model).nearest(features[at[0]], self._patient(slide_id))

    def wall(self, request: Request) -> dict[str, Any]:
        """Tell the tiles that a model attends to most, or mistakes most."""
        model, kind = request.path_params["model"], request.path_params["kind"]
        if kind not in get_args(Kind) or not (self.facts.folder.predictions / model).is_dir():
            raise HTTPException(404, "there is no such wall of tiles")
        table = self.cohort(request)
        truths = {
            row["id"]: row["truth"] or row["label"]
            for row in table["slides"]
            if kind == "attended" or (row["split"] != "train" and (row["truth"] or row["label"]))
        }
        return wall(self.facts, model, kind, truths)

    def decided(self, request: Request) -> dict[str, Any]:
        """Tell what stands in the table of decisions, which others write too."""
        return self.facts.decided(_id(request), self._store(_id(request))[0])

    def decide(self, request: Request, asked: Decided) -> dict[str, Any]:
        slide_id = _id(request)
        decide(self.facts.folder, Choice(slide_id, asked.place, asked.choice))
        return self.facts.decided(slide_id, self._store(slide_id)[0])

    def draw(self, request: Request, stroke: Stroke) -> dict[str, Any]:
        self.masks.change(_id(request), stroke)
        return self.masks.told(_id(request))

    def undraw(self, request: Request, _: Undo) -> dict[str, Any]:
        self.masks.undo(_id(request))
        return self.masks.told(_id(request))

    def array(self, request: Request) -> dict[str, Any]:
        """Tell a microarray's cores, and where its pixels are."""
        name = _id(request)
        said = self.arrays.told(name)
        file = self.arrays.file_of(name)
        return said | ({"missing": file} if isinstance(file, str) else self._opened(file))

    def place(self, request: Request, edit: CoreEdit) -> dict[str, Any]:
        self.arrays.change(_id(request), edit)
        return self.arrays.told(_id(request))

    def unplace(self, request: Request, _: Undo) -> dict[str, Any]:
        self.arrays.undo(_id(request))
        return self.arrays.told(_id(request))

    def join(self, request: Request, asked: CoreMap) -> dict[str, Any]:
        self.arrays.join(_id(request), asked.name, asked.text)
        return self.arrays.told(_id(request))

    def redraw(self, request: Request) -> None:
        self.arrays.redraw(_id(request))

    def pixels(self, request: Request) -> Response:
        """Answer with a tile of the slide's pyramid."""
        at = dict(request.path_params)
        return tile_response(self.opened, self._file(at.pop("slide_id")), **at)

    def share(self, request: Request) -> dict[str, Any]:
        return coarse_share(self.opened, self._file(_id(request)))

    def array_pixels(self, request: Request) -> Response:
        """Answer with a tile of a microarray's pyramid."""
        at = dict(request.path_params)
        return tile_response(self.opened, self._array_file(at.pop("slide_id")), **at)

    def array_share(self, request: Request) -> dict[str, Any]:
        return coarse_share(self.opened, self._array_file(_id(request)))

    def tile_picture(self, request: Request) -> Response:
        """Answer with a tile ``stored``, or as ``scanned``."""
        at = request.path_params
        store = self.facts.store(at["slide_id"])
        if store is None or not 0 <= at["row"] < len(store):
            raise HTTPException(404, "the slide has no such tile")
        if at["how"] == "stored":
            return jpeg_response(np.asarray(store.tiles[at["row"]]))
        if at["how"] != "scanned" or store.attributes.get("straightened") is not None:
            raise HTTPException(404, "there is no such picture of a tile")
        with self.opened.use(self._file(at["slide_id"])) as opened:
            return jpeg_response(scanned_tile(opened.slide, store, at["row"]))

    def tile_at(self, request: Request) -> Response:
        """Answer with the stored tile at a place, level-0 (x, y)."""
        at = request.path_params
        store, row = self.facts.row_at(at["slide_id"], (at["x"], at["y"]))
        return jpeg_response(np.asarray(store.tiles[row]))

    def thumbnail(self, request: Request) -> Response:
        path = self.facts.folder.thumbnail(_id(request))
        if not path.exists():
            raise HTTPException(404, "the slide has no thumbnail")
        return FileResponse(path, headers=A_WHILE)

    def _opened(self, file: SlideFile) -> dict[str, Any]:
        """Say how large a slide is; or why it cannot be shown."""
        try:
            with self.opened.use(file) as opened:
                width, height = opened.slide.dimensions
                info = opened.slide.info
            self.opened.warm(file)  # the page asks for the first tile next
        except SlideError as error:
            return {"missing": sentence(error)}
        return {
            "width": width, "height": height, "levels": levels_of((width, height)), "side": SIDE,
            "reader": info.reader, "mpp": own_mpp(info),
        }  # fmt: skip

    def _store(self, slide_id: str) -> tuple[TileStore | None, str | None]:
        """Open a slide's tiles; damaged ones are told of, and do not keep the slide from sight."""
        try:
            return self.facts.store(slide_id), None
        except StoreError as error:
            return None, sentence(error)

    def _trained(self, model: str) -> str:
        if model not in self.training.models():
            raise HTTPException(404, f"there is no model {model} with features here")
        return model

    def _patient(self, slide_id: str) -> str | None:
        row = self.facts.row(slide_id)
        return None if row is None else row.patient_id

    def _at_hand(self, slide_id: str) -> SlideFile | None:
        file = self.facts.file_of(slide_id, self._store(slide_id)[0])
        return None if isinstance(file, str) or "://" in file.path else file

    def _array_file(self, name: str) -> SlideFile:
        key = f"array {name}"
        if key not in self._files:
            file = self.arrays.file_of(name)
            if isinstance(file, str):
                raise HTTPException(404, file)
            self._files[key] = file
        return self._files[key]

    def _file(self, slide_id: str) -> SlideFile:
        if slide_id not in self._files:
            file = self.facts.file_of(slide_id, self._store(slide_id)[0])
            if isinstance(file, str):
                raise HTTPException(404, file)
            self._files[slide_id] = file
        return self._files[slide_id]


def _id(request: Request) -> str:
    return str(request.path_params["slide_id"])
