"""A toy of each kind that is chosen by name, through its one door, from the command line."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from pydantic import Field

from wsi_pipeline import extract, qc, tile, verbs, verify
from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.features import read_features
from wsi_pipeline.reporting.funnel import read_funnel
from wsi_pipeline.slides import READERS, Reader, Slide
from wsi_pipeline.stain import restore_stain
from wsi_pipeline.tiles import (
    STORE_FORMATS,
    WHOLE_SLIDE,
    SlidePlan,
    SlideRequest,
    StoreFormat,
    TileArray,
    TileStore,
    check_marks,
    open_tiles,
    stores_of,
    survey_slide,
)
from wsi_pipeline.tiles.flags import FLAGS, Learnt, Look, TileFlag, store_marks
from wsi_pipeline.verbs.tiles import TileConfig

OWN = """
import numpy as np
from wsi_pipeline.stain import REFERENCE

def bright_left(view):
    mask = view.density > 0.05
    mask[:, mask.shape[1] // 2:] = False
    return mask

def published(pixels):
    assert pixels.ndim == 2 and pixels.dtype == np.uint8
    return REFERENCE.matrix
"""


@pytest.fixture
def slides(data_dir: Path, tmp_path: Path) -> Path:
    """Real liver, 4 × 2 tiles of 256 px, on glass."""
    files = sorted((data_dir / "liver_tiles").rglob("*.jpg"))[:8]
    tiles = [cv2.imread(str(file)) for file in files]
    rows = [np.concatenate(tiles[start : start + 4], axis=1) for start in (0, 4)]
    image = cv2.copyMakeBorder(
        np.concatenate(rows), 256, 256, 256, 256, cv2.BORDER_CONSTANT, value=(245, 245, 245)
    )
    folder = tmp_path / "slides"
    folder.mkdir()
    cv2.imwrite(str(folder / "mosaic.png"), image)
    return folder


def cut(slides: Path, run: Path, *flags: str) -> int:
    return tile.main([str(slides), "--run", str(run), "--mpp-override", "0.5", *flags])


def test_a_users_own_stain_and_tissue_methods(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_methods.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = ["--stain", "own_methods:published", "--tissue-method", "own_methods:bright_left"]
    assert cut(slides, tmp_path / "run", *asked) == 0
    store = open_tiles(tmp_path / "run" / "tiles" / "mosaic.zarr")
    assert 0 < len(store) <= 4
    assert store.coords[:, 0].max() < 3 * 256
    stain = store.attributes["stain"]
    assert stain["method"] == "own_methods:published"
    assert not stain["flags"]
    raw = np.full((1, 4, 4, 3), (200, 120, 180), np.uint8)
    assert (restore_stain(stain).apply(raw) != raw).any()


def test_a_new_flag_is_one_entry(
    slides: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def redness(look: Look) -> np.ndarray:
        return look.coarse.rgb[..., 0].mean(axis=(1, 2)).astype(np.float32)

    toy = TileFlag(
        label="Rather red",
        fate="too red",
        colour=(255, 0, 0),
        column="redness",
        limit=lambda _knobs, sample: float(np.median(redness(sample))),
        rule=lambda _knobs, _sample: Learnt(measure=redness, numbers={"toy": 1.0}),
    )
    monkeypatch.setattr(FLAGS, "_entries", {**FLAGS, "red": toy})
    run = tmp_path / "run"
    assert cut(slides, run) == 0
    assert "too red, kept" in capsys.readouterr().out
    store = open_tiles(run / "tiles" / "mosaic.zarr")
    marked = store_marks(store)["red"]
    assert 0 < marked.sum() < len(store)
    assert (store.columns["redness"][marked] > store.attributes["flag_limits"]["red"]).all()
    assert store.attributes["toy"] == 1.0
    assert qc.main([str(run), "--drop", "red"]) == 0
    assert "Rather red" in (run / "qc" / "index.html").read_text()
    assert "red " in (run / "qc" / "decisions.csv").read_text()
    funnel = read_funnel([], {"mosaic": store}, [])
    assert "too red" in funnel.tiles[1].lost
    # a store from before the flag was known bears none of it
    monkeypatch.setattr(FLAGS, "_entries", {**FLAGS, "later": replace(toy, column="later")})
    assert not store_marks(store)["later"].any()


class SparseConfig(TileConfig):
    """Cut tiles, but not the first of them."""

    topic: ClassVar = "a toy"

    skip_tiles: int = Field(default=0, ge=0, le=5, description="How many tiles are passed over.")


def test_a_new_knob_is_one_field_and_its_use(
    slides: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Flag, TOML key, bounds, help, provenance and resume follow."""

    def sparse(
        slide: Slide, settings: SparseConfig, request: SlideRequest = WHOLE_SLIDE
    ) -> SlidePlan:
        plan = survey_slide(slide, settings, request)
        wanted = plan.wanted.copy()
        wanted[np.flatnonzero(wanted)[: settings.skip_tiles]] = False
        return replace(plan, wanted=wanted)

    monkeypatch.setattr("wsi_pipeline.tiles.cut.survey_slide", sparse)
    monkeypatch.setattr(verbs, "VERBS", verbs.table_of([SparseConfig]))
    assert cut(slides, tmp_path / "all") == 0
    assert cut(slides, tmp_path / "run", "--skip-tiles", "2") == 0
    every = open_tiles(tmp_path / "all" / "tiles" / "mosaic.zarr")
    fewer = open_tiles(tmp_path / "run" / "tiles" / "mosaic.zarr")
    assert len(fewer) == len(every) - 2
    assert fewer.attributes["config"]["skip_tiles"] == 2
    file = tmp_path / "tile.toml"
    file.write_text("skip_tiles = 2\n")
    capsys.readouterr()
    assert cut(slides, tmp_path / "run", "--config", str(file)) == 0
    assert "done earlier" in capsys.readouterr().out
    assert cut(slides, tmp_path / "run") == 1
    assert "skip_tiles: 2, asked 0" in capsys.readouterr().out
    assert cut(slides, tmp_path / "run", "--skip-tiles", "6") == 2
    assert "'skip_tiles': Input should be less than or equal to 5" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tile.main(["--help"])
    shown = capsys.readouterr().out
    assert "a toy:" in shown
    assert "--skip-tiles N" in shown


OWN_READER = """
import numpy as np
from wsi_pipeline.slides import SlideInfo, SlideReader
from wsi_pipeline.types import Region


class RawReader(SlideReader):
    def __init__(self, path):
        self.pixels = np.load(path)
        height, width = self.pixels.shape[:2]
        self.info = SlideInfo(
            path=str(path), reader="raw", reader_version="1", vendor="toy",
            level_dimensions=((width, height),), level_downsamples=(1.0,),
            mpp_x=0.5, mpp_y=0.5, mpp_source="toy", objective_power=None,
            bounds=Region(x=0, y=0, width=width, height=height), properties={}, associated=(),
        )

    def read_inside(self, level, x, y, width, height):
        return self.pixels[y : y + height, x : x + width].copy()

    def read_associated(self, name):
        raise AssertionError

    def close(self):
        del self.pixels


def no_reader(path):
    return np.load(path)
"""


def test_a_users_own_slide_reader(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads what no other can, and a table of its own makes it one of ``auto``'s."""
    (tmp_path / "own_reader.py").write_text(OWN_READER)
    monkeypatch.syspath_prepend(str(tmp_path))
    pixels = cv2.cvtColor(cv2.imread(str(slides / "mosaic.png")), cv2.COLOR_BGR2RGB)
    np.save(slides / "raw.npy", pixels)
    table = slides / "cohort.csv"
    table.write_text("slide_id,path,patient_id,label,cohort\nraw,raw.npy,P1,normal,own\n")
    assert cut(table, tmp_path / "none") == 1
    assert cut(table, tmp_path / "wrong", "--reader", "own_reader:no_reader") == 2
    assert cut(table, tmp_path / "run", "--reader", "own_reader:RawReader") == 0
    store = open_tiles(tmp_path / "run" / "tiles" / "raw.zarr")
    assert store.attributes["reader"] == "raw"
    assert cut(slides, tmp_path / "flat") == 0
    flat = open_tiles(tmp_path / "flat" / "tiles" / "mosaic.zarr")
    np.testing.assert_array_equal(store.tiles[:], flat.tiles[:])

    from own_reader import RawReader

    entry = Reader(load=lambda: lambda path, _threads: RawReader(path), suffixes=(".npy",))
    monkeypatch.setattr(READERS, "_entries", {**READERS, "raw": entry})
    table.unlink()
    assert cut(slides, tmp_path / "both") == 0
    assert stores_of(tmp_path / "both" / "tiles").keys() == {"mosaic", "raw"}


class NpzTiles(TileArray):
    def __init__(self, path: Path, tiles: np.ndarray) -> None:
        super().__init__(path, len(tiles), tiles.shape[1])
        self._tiles = tiles

    def read_run(self, first: int, out: np.ndarray) -> None:
        out[...] = self._tiles[first : first + len(out)]


class NpzBackend:
    """Tile stores as NumPy archives."""

    @contextmanager
    def create_store(
        self, path: Path, _tile_px: int, _capacity: int, codec: str
    ) -> Iterator["NpzBackend"]:
        assert codec == "plain"
        with atomic_file(path) as partial:
            self._partial, self._parts = partial, [np.empty(0, np.uint8)] * 0
            yield self

    def pack(self, tiles: np.ndarray) -> list[np.ndarray]:
        return list(tiles)

    def write(self, packed: Sequence[np.ndarray]) -> None:
        self._parts.append(np.stack(packed))

    def finish(
        self, coords: np.ndarray, columns: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
    ) -> None:
        about = json.dumps({**attributes, "complete": True})
        tiles = np.concatenate(self._parts)
        with self._partial.open("wb") as file:
            np.savez(file, tiles=tiles, coords=coords, about=about, **columns)

    def open_store(self, path: Path) -> TileStore:
        arrays = dict(np.load(path))
        attributes = json.loads(str(arrays.pop("about")))
        check_marks(path, attributes)
        return TileStore(
            path=path, tiles=NpzTiles(path, arrays.pop("tiles")), coords=arrays.pop("coords"),
            columns=arrays, attributes=attributes,
        )  # fmt: skip


def test_a_new_format_of_tile_stores_is_one_entry(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = StoreFormat(suffix=".npz", codecs=("plain",), load=NpzBackend)
    monkeypatch.setattr(STORE_FORMATS, "_entries", {**STORE_FORMATS, "numpy": toy})
    run = tmp_path / "run"
    assert cut(slides, run, "--store", "numpy", "--codec", "zstd") == 2
    assert cut(slides, run, "--store", "numpy") == 0
    assert [path.name for path in (run / "tiles").iterdir()] == ["mosaic.npz"]
    store = open_tiles(run / "tiles" / "mosaic.npz")
    assert cut(slides, tmp_path / "zarr") == 0
    plain = open_tiles(tmp_path / "zarr" / "tiles" / "mosaic.zarr")
    np.testing.assert_array_equal(store.tiles[:], plain.tiles[:])
    assert store.attributes["codec"] == "plain"
    assert cut(slides, run, "--store", "numpy") == 0, "done earlier"
    model = ["--encoder", "test_resnet", "--weights", "random", "--device", "cpu"]
    assert extract.main([str(run), *model]) == 0
    assert verify.main([str(run)]) == 0


OWN_ENCODER = """
from torch import nn
from wsi_pipeline.features import EncoderModel, Preprocess

def mean_colour(weights):
    return EncoderModel(
        model=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), tag="mean-colour",
        preprocess=Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    )
"""


def test_a_users_own_encoder(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_encoder.py").write_text(OWN_ENCODER)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = tmp_path / "run"
    assert cut(slides, run) == 0
    assert extract.main([str(run), "--encoder", "own_encoder:mean_colour", "--device", "cpu"]) == 0
    tiles = open_tiles(run / "tiles" / "mosaic.zarr").tiles[:]
    bag = read_features(run / "features" / "mean-colour" / "mosaic.h5")
    np.testing.assert_allclose(bag.features, tiles.mean(axis=(1, 2)) / 255, atol=1e-6)


def test_a_reference_image_and_staintools(
    slides: Path, tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(data_dir / "stain" / "target.png")
    asked = ["--stain-backend", "staintools", "--stain-reference", image]
    assert cut(slides, tmp_path / "run", *asked) == 0
    attributes = open_tiles(tmp_path / "run" / "tiles" / "mosaic.zarr").attributes
    assert attributes["stain"]["method"] == "staintools-macenko"
    assert attributes["stain"]["target"] == attributes["stain_reference"]["stains"]
    plain = cut(slides, tmp_path / "plain")
    assert plain == 0
    other = open_tiles(tmp_path / "plain" / "tiles" / "mosaic.zarr").attributes
    assert other["stain"]["target"] != attributes["stain"]["target"]
    fitted = tmp_path / "fit.json"
    fitted.write_text(json.dumps(attributes["stain_reference"]))
    assert cut(slides, tmp_path / "again", "--stain-reference", str(fitted)) == 0
    again = open_tiles(tmp_path / "again" / "tiles" / "mosaic.zarr").attributes
    assert again["stain"]["target"] == attributes["stain"]["target"]
    capsys.readouterr()
    assert cut(slides, tmp_path / "x", "--stain-reference", str(tmp_path / "none.svs")) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert cut(slides, tmp_path / "x", "--stain", "macenko-tile", *asked[:2]) == 2
    assert "staintools has no stain method 'macenko-tile'" in capsys.readouterr().err


def test_unknown_names_are_met_with_the_nearest(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qc.main([str(tmp_path), "--drop", "blured"]) == 2
    assert "'blurred'" in capsys.readouterr().err
