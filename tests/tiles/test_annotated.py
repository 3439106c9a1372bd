"""What people draw on slides restricts and names tiles, replaces masks, and is never overlooked."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import zarr

from wsi_pipeline.errors import CohortError, ConfigError
from wsi_pipeline.events import Event, SlideDone, SlideFailed, SlideSkipped
from wsi_pipeline.pipeline.tile import run
from wsi_pipeline.slides import open_slide
from wsi_pipeline.tiles import SlideRequest, TileSettings, open_tiles, plan_slide, verify_tiles
from wsi_pipeline.tissue.annotations import EXCLUDE
from wsi_pipeline.types import Region
from wsi_pipeline.verbs.tiles import TileConfig

SIDE = 32  # of a tile; the slide has 12 × 10 of them, tissue everywhere but in the outermost


def rectangle(label: str | None, x: int, y: int, right: int, bottom: int) -> dict[str, Any]:
    """A QuPath annotation, corners in tiles."""
    ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
    properties: dict[str, Any] = {"objectType": "annotation"}
    if label:
        properties["classification"] = {"name": label, "color": [200, 0, 0]}
    corners = [[SIDE * across, SIDE * down] for across, down in ring]
    geometry = {"type": "Polygon", "coordinates": [corners]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


DRAWN = [
    rectangle("Tumor", 2, 2, 6, 8),
    rectangle("Stroma", 6, 2, 9, 8),
    rectangle("Ignore*", 4, 4, 5, 5),
]


def save(path: Path, features: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def save_asap(path: Path) -> None:
    """The tumour without its stroma."""
    corners = [(2, 2), (6, 2), (6, 8), (2, 8)]
    points = "".join(
        f'<Coordinate Order="{k}" X="{x * SIDE}" Y="{y * SIDE}"/>'
        for k, (x, y) in enumerate(corners)
    )
    path.write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="1" Type="Polygon" PartOfGroup="Tumor">'
        f"<Coordinates>{points}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    picture = np.full((10 * SIDE, 12 * SIDE, 3), 244, np.uint8)
    inner = picture[SIDE:-SIDE, SIDE:-SIDE]
    inner[:] = np.array([150, 90, 180]) + rng.integers(-40, 40, inner.shape)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    (tmp_path / "cohort.csv").write_text(
        "slide_id,path,patient_id,label,cohort,annotations\na,a.png,P,hcc,x,a.geojson\n"
    )
    save(tmp_path / "a.geojson", DRAWN)
    return tmp_path


def config(folder: Path, **settings: Any) -> TileConfig:
    asked = {"mpp": 8, "mpp_override": 8, "tile_px": SIDE, "stain": "none", **settings}
    return TileConfig(cohort=folder / "cohort.csv", run=folder / "run", **asked)


def fates(events: Iterable[Event]) -> list[Event]:
    return [e for e in events if isinstance(e, SlideDone | SlideFailed | SlideSkipped)]


def classes(folder: Path) -> dict[tuple[int, int], str | None]:
    """Class by place, in tiles."""
    store = open_tiles(folder / "run" / "tiles" / "a.zarr")
    assert not list(verify_tiles(folder / "run" / "tiles" / "a.zarr"))
    names = [*store.attributes["annotation_classes"], None]
    index = store.columns["annotation_class"]
    assert index.dtype == np.int32
    places = [(int(x), int(y)) for x, y in store.coords // SIDE]
    return {place: names[k] for place, k in zip(places, index, strict=True)}


def test_regions_restrict_and_name_tiles(folder: Path) -> None:
    (done,) = fates(run(config(folder)))
    assert isinstance(done, SlideDone)
    found = classes(folder)
    assert found == {
        (x, y): "Tumor" if x < 6 else "Stroma"
        for x in range(2, 9) for y in range(2, 8) if (x, y) != (4, 4)
    }  # fmt: skip


def test_the_thumbnail_shows_regions_in_their_class_colours(folder: Path) -> None:
    list(run(config(folder)))
    found = cv2.imread(str(folder / "run" / "thumbnails" / "a.jpg"))
    assert found is not None
    height, width = found.shape[:2]
    red = np.array([0, 0, 200])  # BGR, as QuPath wrote it for all three
    left = (round(2 / 12 * width), round(5.5 / 10 * height))
    edge = found[left[1], left[0] - 3 : left[0] + 4].astype(int)
    assert np.abs(edge - red).sum(axis=1).min() < 90
    away = found[round(9.5 / 10 * height), : width // 2].astype(int)
    assert np.abs(away - red).sum(axis=1).min() > 150


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_classes_are_whole_numbers_on_disk_and_stores_from_before_are_read(
    folder: Path, kind: str
) -> None:
    list(run(config(folder, store=kind)))
    path = folder / "run" / "tiles" / {"zarr": "a.zarr", "hdf5": "a.h5"}[kind]
    name = "annotation_class"
    new = open_tiles(path).columns[name]
    assert set(new.tolist()) == {0, 1}
    if kind == "zarr":
        group = zarr.open_group(path, mode="a")
        assert group[name].dtype == np.int32
        del group[name], group.attrs["seal"]  # as it was written before
        group.create_array(name, data=new.astype(np.float32), chunks=new.shape, compressors=None)
    else:
        with h5py.File(path, "a") as file:
            assert file[name].dtype == np.int32
            del file[name]
            del file.attrs["sealed"]
            file.create_dataset(name, data=new.astype(np.float32))
    (folder / "run" / "inventory.jsonl").unlink()
    old = open_tiles(path).columns[name]
    assert old.dtype == np.int32
    assert np.array_equal(old, new)
    assert not list(verify_tiles(path))
    (again,) = fates(run(config(folder, store=kind)))
    assert isinstance(again, SlideSkipped)


def test_regions_may_name_only(folder: Path) -> None:
    list(run(config(folder, annotated_only=False)))
    found = classes(folder)
    assert len(found) == 10 * 8 - 1
    assert (4, 4) not in found
    assert (found[2, 2], found[8, 7], found[1, 1]) == ("Tumor", "Stroma", None)


def test_a_class_must_cover_enough(folder: Path) -> None:
    half = rectangle("Tumor", 2, 2, 4, 4)
    right = 2.45 * SIDE
    ring = [[2 * SIDE, 2 * SIDE], [right, 2 * SIDE], [right, 8 * SIDE], [2 * SIDE, 8 * SIDE]]
    half["geometry"]["coordinates"][0] = [*ring, ring[0]]
    save(folder / "a.geojson", [half, rectangle("Stroma", 3, 2, 5, 8)])
    list(run(config(folder, annotated_only=False)))
    assert classes(folder)[2, 3] is None  # 0.45 of its width
    list(run(config(folder, annotated_only=False, min_annotation_overlap=0.4, overwrite=True)))
    assert classes(folder)[2, 3] == "Tumor"


def test_classes_to_exclude_are_told(folder: Path) -> None:
    assert TileConfig(cohort=folder, run=folder).exclude_annotations == EXCLUDE
    list(run(config(folder, exclude_annotations=["stroma"])))
    assert set(classes(folder).values()) == {"Tumor", "Ignore*"}


def test_asap_regions_do_the_same(folder: Path) -> None:
    save_asap(folder / "a.xml")
    table = folder / "cohort.csv"
    table.write_text(table.read_text().replace(".geojson", ".xml"))
    list(run(config(folder)))
    assert set(classes(folder)) == {(x, y) for x in range(2, 6) for y in range(2, 8)}


def test_a_changed_drawing_is_noticed(folder: Path) -> None:
    list(run(config(folder)))
    (again,) = fates(run(config(folder)))
    assert isinstance(again, SlideSkipped)
    save(folder / "a.geojson", DRAWN[:2])
    (failed,) = fates(run(config(folder)))
    assert isinstance(failed, SlideFailed)
    assert "annotations_digest" in failed.error
    (done,) = fates(run(config(folder, overwrite=True)))
    assert isinstance(done, SlideDone)
    save(folder / "masks" / "a.geojson", [rectangle(None, 1, 1, 8, 8)])
    (failed,) = fates(run(config(folder, masks=folder / "masks")))
    assert isinstance(failed, SlideFailed)
    assert "mask_digest" in failed.error


def test_a_corrected_mask_takes_the_place_of_the_computed_one(folder: Path) -> None:
    (folder / "cohort.csv").write_text("slide_id,path,patient_id,label,cohort\na,a.png,P,hcc,x\n")
    save(
        folder / "masks" / "a.geojson",
        [rectangle(None, 0, 3, 5, 6), rectangle("Ignore", 2, 3, 3, 6)],
    )
    asked = config(folder, masks=folder / "masks", max_background_fraction=1)
    (done,) = fates(run(asked))
    assert isinstance(done, SlideDone)
    assert "drawn_mask" in done.flags
    store = open_tiles(folder / "run" / "tiles" / "a.zarr")
    assert store.attributes["tissue"]["method"] == "drawn"
    assert store.attributes["annotation_classes"] is None
    assert {(x, y) for x, y in (store.coords // SIDE).tolist()} == {
        (x, y) for x in (0, 1, 3, 4) for y in range(3, 6)
    }  # empty glass in column 0 too: the person is right


@pytest.mark.parametrize(
    ("origin", "suffix", "shifted"),
    [
        ("auto", "geojson", True),
        ("slide", "geojson", False),
        ("bounds", "geojson", True),
        ("auto", "xml", False),
        ("bounds", "xml", True),
    ],
)
def test_coordinates_of_slides_scanned_in_part(
    folder: Path, origin: Any, suffix: str, shifted: bool
) -> None:
    """QuPath counts from the scanned bounds, ASAP and OpenSlide from the slide's corner."""
    save_asap(folder / "a.xml")
    request = SlideRequest(annotations=folder / f"a.{suffix}")
    with open_slide(folder / "a.png") as slide:
        bounds = Region(x=SIDE, y=2 * SIDE, width=11 * SIDE, height=8 * SIDE)
        slide.info = replace(slide.info, bounds=bounds)
        asked = {"mpp": 8, "mpp_override": 8, "tile_px": SIDE, "annotation_origin": origin}
        plan = plan_slide(slide, TileSettings(**asked), request)
    assert plan.classes is not None
    tumour = plan.grid.coords(
        np.flatnonzero(plan.classes.index == plan.classes.names.index("Tumor"))
    )
    corner = tumour.min(axis=0) // SIDE
    assert corner.tolist() == ([3, 4] if shifted else [2, 2])
    assert (tumour % SIDE == 0).all()


def test_what_cannot_be_used_is_refused(folder: Path) -> None:
    beside = [rectangle("Tumor", 40, 40, 50, 50)]
    for content, message in (("{", "not GeoJSON"), (json.dumps(beside), "beside the slide")):
        (folder / "a.geojson").write_text(content)
        (failed,) = fates(run(config(folder)))
        assert isinstance(failed, SlideFailed)
        assert message in failed.error
    save(folder / "a.geojson", DRAWN)
    save(folder / "masks" / "a.geojson", [])
    (failed,) = fates(run(config(folder, masks=folder / "masks", overwrite=True)))
    assert isinstance(failed, SlideFailed)
    assert "no tissue is drawn" in failed.error
    (failed,) = fates(run(config(folder, straighten=True)))
    assert isinstance(failed, SlideFailed)
    assert "straighten" in failed.error
    with pytest.raises(ConfigError, match="no such folder"):
        list(run(config(folder, masks=folder / "none")))
    (folder / "a.geojson").unlink()
    with pytest.raises(CohortError, match=r"a\.geojson"):
        list(run(config(folder)))
