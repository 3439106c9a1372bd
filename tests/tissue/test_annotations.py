"""Drawn regions: what QuPath and ASAP write, what comes of it, and what is refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, Polygon, box

from wsi_pipeline.errors import SlideError
from wsi_pipeline.tissue import (
    annotated_mask,
    draw_annotation,
    read_annotations,
    tile_labels,
    write_geojson,
)

SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
HOLE = [[40, 40], [60, 40], [60, 60], [40, 60], [40, 40]]

QUPATH: list[dict[str, Any]] = [
    {
        "type": "Feature",
        "id": "6a0ab2c9-3d7d-4a4e-9f61-0d0f6a1f3b11",
        "geometry": {"type": "Polygon", "coordinates": [SQUARE, HOLE]},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": "Tumor", "color": [200, 0, 0]},
            "isLocked": False,
        },
    },
    {
        "type": "Feature",
        "geometry": {
            "type": "MultiPolygon",
            "coordinates": [
                [[[200, 0], [300, 0], [300, 50], [200, 0]]],
                [[[200.25, 60], [300, 60], [300, 100.5], [200.25, 60]]],
            ],
        },
        "properties": {"objectType": "annotation", "classification": {"name": "Stroma"}},
    },
    {
        "type": "Feature",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[0, 0], [50, 0], [50, 50], [0, 50], [0, 0]]],
        },
        "properties": {"objectType": "annotation", "classification": {"name": "Ignore*"}},
    },
    {
        "type": "Feature",
        "geometry": {"type": "LineString", "coordinates": [[0, 0], [10, 10]]},
        "properties": {"objectType": "annotation", "name": "ruler"},
    },
]

ASAP = """<?xml version="1.0"?>
<ASAP_Annotations>
  <Annotations>
    <Annotation Name="Annotation 0" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58">
      <Coordinates>
        <Coordinate Order="1" X="100" Y="0" />
        <Coordinate Order="0" X="0" Y="0" />
        <Coordinate Order="2" X="100,5" Y="100" />
      </Coordinates>
    </Annotation>
    <Annotation Name="Annotation 1" Type="Dot" PartOfGroup="None" Color="#F4FA58">
      <Coordinates><Coordinate Order="0" X="5" Y="6" /></Coordinates>
    </Annotation>
    <Annotation Name="Annotation 2" Type="Rectangle" PartOfGroup="Exclusion" Color="#64FE2E">
      <Coordinates>
        <Coordinate Order="0" X="0" Y="0" /><Coordinate Order="1" X="10" Y="0" />
        <Coordinate Order="2" X="10" Y="10" /><Coordinate Order="3" X="0" Y="10" />
      </Coordinates>
    </Annotation>
  </Annotations>
  <AnnotationGroups>
    <Group Name="Tumor" PartOfGroup="None" Color="#00ff00"><Attributes /></Group>
  </AnnotationGroups>
</ASAP_Annotations>
"""


def saved(folder: Path, content: object, name: str = "drawn.geojson") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_qupath_regions_with_holes_parts_and_exclusions(tmp_path: Path) -> None:
    tumour, stroma, ignored, ruler = read_annotations(saved(tmp_path, QUPATH))
    assert (tumour.label, tumour.include, tumour.area.area) == ("Tumor", True, 100**2 - 20**2)
    assert (stroma.label, len(stroma.area.geoms)) == ("Stroma", 2)
    assert (ignored.label, ignored.include) == ("Ignore*", False)
    assert (ruler.label, ruler.area.is_empty) == (None, True)


@pytest.mark.parametrize("wrap", ["list", "collection", "single"])
def test_geojson_comes_back_unchanged(tmp_path: Path, wrap: str) -> None:
    content: Any = {
        "list": QUPATH,
        "collection": {"type": "FeatureCollection", "features": QUPATH},
        "single": QUPATH[0],
    }[wrap]
    read = read_annotations(saved(tmp_path, content), origin=(1000, 2000))
    write_geojson(tmp_path / "again.geojson", read)
    again = json.loads((tmp_path / "again.geojson").read_text())
    assert again["features"] == (QUPATH[:1] if wrap == "single" else QUPATH)


def test_coordinates_may_start_at_the_scanned_bounds(tmp_path: Path) -> None:
    read = read_annotations(saved(tmp_path, QUPATH), origin=(1000, 2000))
    assert read[0].area.bounds == (1000, 2000, 1100, 2100)


def test_asap_groups_order_and_decimal_commas(tmp_path: Path) -> None:
    tumour, dot, excluded = read_annotations(saved(tmp_path, ASAP, "drawn.xml"))
    assert tumour.label == "Tumor"
    assert tumour.area.equals(Polygon([(0, 0), (100, 0), (100.5, 100)]))
    assert (dot.label, dot.area.is_empty) == (None, True)
    assert (excluded.include, excluded.area.area) == (False, 100)
    write_geojson(tmp_path / "asap.geojson", [tumour, dot, excluded])
    again = read_annotations(tmp_path / "asap.geojson")
    assert [(a.label, a.include, a.area) for a in again] == [
        (a.label, a.include, a.area) for a in (tumour, dot, excluded)
    ]


def test_a_bow_tie_is_made_valid(tmp_path: Path) -> None:
    crossed = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    feature = QUPATH[1] | {"geometry": {"type": "Polygon", "coordinates": [crossed]}}
    (read,) = read_annotations(saved(tmp_path, feature))
    assert read.area.is_valid
    assert read.area.area == pytest.approx(50)


def test_mask_is_what_lies_under_pixel_centres() -> None:
    rng = np.random.default_rng(4)
    hull = shapely.MultiPoint(rng.uniform(0, 400, (7, 2))).convex_hull
    area = hull.difference(Point(200, 200).buffer(60))
    mask = annotated_mask([draw_annotation(area)], (50, 40), 8.0, origin=(16, -24))
    y, x = np.mgrid[:50, :40]
    expected = shapely.contains_xy(area, (x + 0.5) * 8 + 16, (y + 0.5) * 8 - 24)
    assert 100 < expected.sum() < 1900
    assert np.array_equal(mask, expected)


def test_exclusion_wins_and_alone_leaves_the_rest() -> None:
    out = draw_annotation(box(0, 0, 20, 40), "Ignore*", include=False)
    rest = annotated_mask([out], (4, 4), 10)
    assert rest[:, 2:].all()
    assert not rest[:, :2].any()
    both = annotated_mask([out, draw_annotation(box(0, 0, 40, 20), "Tumor")], (4, 4), 10)
    assert both.sum() == 4
    assert both[:2, 2:].all()


def test_tiles_take_the_class_that_covers_enough() -> None:
    drawn = [
        draw_annotation(box(0, 0, 100, 60), "Tumor"),
        draw_annotation(box(0, 60, 100, 100), "Stroma"),
        draw_annotation(box(200, 0, 300, 100), "Tumor"),
        draw_annotation(box(200, 0, 260, 100), include=False),
    ]
    coords = np.array([[0, 0], [200, 0], [500, 0], [0, 50]], np.int64)
    assert tile_labels(drawn, coords, 100) == ["Tumor", None, None, None]
    assert tile_labels(drawn, coords, 100, min_overlap=0.4) == ["Tumor", "Tumor", None, "Stroma"]
    assert tile_labels([], coords, 100) == [None] * 4
    with pytest.raises(ValueError, match="min_overlap"):
        tile_labels(drawn, coords, 100, min_overlap=0)


def bomb() -> str:
    entities = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(12))
    return f'<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a0 "ha">{entities}]><b>&a12;</b>'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", bomb(), "DOCTYPE"),
        ("a.xml", '<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', "DOCTYPE"),
        ("a.xml", "<ASAP_Annotations><Annotations>", "not ASAP's XML"),
        ("a.xml", "<svg/>", "no ASAP_Annotations"),
        ("a.xml", "<ASAP_Annotations>" * 40, "nested"),
        ("a.xml", ASAP.replace('X="100"', 'X="left"'), "Annotation 0"),
        ("a.geojson", "{", "not GeoJSON"),
        ("a.geojson", "[" * 100_000, "not GeoJSON"),
        ("a.geojson", '{"type": "Topology"}', "FeatureCollection"),
        ("a.geojson", json.dumps(QUPATH).replace("100.5", "NaN"), "NaN"),
        ("a.geojson", json.dumps(QUPATH).replace("100.5", "1e300"), "beyond any slide"),
        ("a.geojson", json.dumps(QUPATH).replace("100.5", '"x"'), "MultiPolygon"),
        ("a.geojson", json.dumps(QUPATH).replace('"LineString"', '"Blob"'), "Blob"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(SlideError, match=message):
        read_annotations(saved(tmp_path, text, name))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"lost\.geojson"):
        read_annotations(tmp_path / "lost.geojson")


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    source=st.sampled_from([("f.geojson", json.dumps(QUPATH)), ("f.xml", ASAP)]),
)
def test_damaged_files_never_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, source: tuple[str, str]
) -> None:
    name, text = source
    content = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read = read_annotations(path)
    except SlideError:
        return
    annotated_mask(read, (20, 20), 10.0)
    assert all(isinstance(a.area, MultiPolygon) and a.area.is_valid for a in read)


def region(label: str | None, area: Polygon) -> Any:
    return draw_annotation(area, label)


def out(area: Polygon) -> Any:
    return draw_annotation(area, "Ignore*", include=False)


TILE = np.array([[0, 0]], np.int64)


@pytest.mark.parametrize("names", [("Tumor", "Necrosis"), ("Alpha", "Zeta"), ("Zeta", "Alpha")])
def test_the_inner_region_wins_whatever_it_is_called(names: tuple[str, str]) -> None:
    outer, inner = names
    island = region(outer, box(300, 300, 340, 340))
    drawn = [region(inner, box(0, 0, 400, 400)), region(outer, box(-500, -500, 1500, 1500)), island]
    coords = np.array([[0, 0], [500, 500], [302, 302]], np.int64)
    for order in (drawn, drawn[::-1]):
        assert tile_labels(order, coords, 30) == [inner, outer, outer]
    sloppy = region(inner, box(-20, 0, 400, 400))  # 5 % beyond its outline
    drawn = [region(outer, box(0, -500, 1500, 1500)), sloppy]
    assert tile_labels(drawn, coords[:1], 100) == [inner]


def test_where_two_regions_only_overlap_neither_speaks() -> None:
    drawn = [region("A", box(0, 0, 200, 100)), region("B", box(100, 0, 300, 100))]
    coords = np.array([[0, 0], [100, 0], [200, 0]], np.int64)
    assert tile_labels(drawn, coords, 100) == ["A", None, "B"]
    twice = [region("A", box(0, 0, 100, 100)), region("B", box(0, 0, 100, 100))]
    assert tile_labels(twice, TILE, 100) == [None]


def test_two_halves_are_no_class() -> None:
    drawn = [region("A", box(0, 0, 50, 100)), region("B", box(50, 0, 100, 100))]
    assert tile_labels(drawn, TILE, 100) == [None]


def test_a_class_within_what_is_left_out_stays() -> None:
    drawn = [
        region("A", box(0, 0, 900, 900)),
        out(box(100, 100, 800, 800)),
        region("A", box(300, 300, 600, 600)),
        region(None, box(120, 120, 180, 180)),
    ]
    coords = np.array([[0, 0], [200, 200], [400, 400], [130, 130]], np.int64)
    assert tile_labels(drawn, coords, 40) == ["A", None, "A", None]
    for everywhere in (False, True):
        mask = annotated_mask(drawn, (100, 100), 10, everywhere=everywhere)
        assert [mask[y // 10 + 1, x // 10 + 1] for x, y in coords] == [True, False, True, False]
        assert mask[95, 95] == everywhere
    half = [region("A", box(0, 0, 200, 100)), out(box(100, 0, 300, 100))]
    assert tile_labels(half, np.array([[0, 0], [100, 0]]), 100) == ["A", None]


@given(
    boxes=st.lists(
        st.tuples(
            st.sampled_from(["A", "B", "C", None, "Ignore*"]),
            st.integers(0, 90), st.integers(0, 90), st.integers(5, 90), st.integers(5, 90),
        ),
        min_size=1, max_size=7,
    )
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_no_place_has_two_classes_and_order_does_not_matter(boxes: list[Any]) -> None:
    drawn = [
        draw_annotation(box(x, y, x + w, y + h), label, include=label != "Ignore*")
        for label, x, y, w, h in boxes
    ]
    coords = np.array([[x, y] for y in range(0, 180, 20) for x in range(0, 180, 20)], np.int64)
    labels = tile_labels(drawn, coords, 20)
    assert labels == tile_labels(drawn[::-1], coords, 20)
    from wsi_pipeline.tissue.annotations import _alone

    alone = _alone(drawn)
    for one, a in zip(drawn, alone, strict=True):
        assert a.area <= one.area.area + 1e-6
        for other, b in zip(drawn, alone, strict=True):
            classes = {one.label, other.label}
            if len(classes) == 2 and None not in classes:
                assert shapely.intersection(a, b).area < 1e-6


def classified(names: object, area: Any = None) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [SQUARE]} if area is None else area,
        "properties": {"objectType": "annotation", "classification": names},
    }


def test_derived_classes_of_qupath(tmp_path: Path) -> None:
    found = [
        classified({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}),
        classified({"names": ["Ignore*", "Fold"], "color": [1, 2, 3]}),
        classified({"names": ["Tumor", "Ignore*"]}),
        classified({"name": "Ignore*: Fold"}),
        classified({"names": ["Stroma"]}),
        classified({"names": [], "name": "Tumor"}),
    ]
    read = read_annotations(saved(tmp_path, found))
    assert [(one.label, one.include) for one in read] == [
        ("Tumor: Positive", True), ("Ignore*: Fold", False), ("Tumor: Ignore*", False),
        ("Ignore*: Fold", False), ("Stroma", True), ("Tumor", True),
    ]  # fmt: skip
    write_geojson(tmp_path / "again.geojson", read)
    assert json.loads((tmp_path / "again.geojson").read_text())["features"] == found


def test_classes_that_we_write_have_a_colour(tmp_path: Path) -> None:
    drawn = [region("Tumor", box(0, 0, 9, 9)), region("Tumor: Positive", box(0, 0, 9, 9)),
             region("hcc", box(0, 0, 9, 9)), region("cca", box(0, 0, 9, 9))]  # fmt: skip
    drawn += [one for one in read_annotations(saved(tmp_path, ASAP, "drawn.xml")) if one.label]
    write_geojson(tmp_path / "ours.geojson", drawn)
    features = json.loads((tmp_path / "ours.geojson").read_text())["features"]
    told = [feature["properties"]["classification"] for feature in features]
    assert all(len(each["color"]) == 3 for each in told)
    assert told[0] == {"name": "Tumor", "color": [200, 0, 0]}
    assert told[1]["names"] == ["Tumor", "Positive"]
    assert told[2]["color"] != told[3]["color"]
    assert told[4] == {"name": "Tumor", "color": [0xF4, 0xFA, 0x58]}
    assert [one.label for one in read_annotations(tmp_path / "ours.geojson")][:2] == [
        "Tumor", "Tumor: Positive",
    ]  # fmt: skip


def test_gzipped_files_and_places_that_are_null(tmp_path: Path) -> None:
    nowhere = classified({"name": "Tumor"}) | {"geometry": None}
    path = tmp_path / "drawn.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps([*QUPATH, nowhere]).encode()))
    read = read_annotations(path)
    assert [one.label for one in read] == ["Tumor", "Stroma", "Ignore*", None, "Tumor"]
    assert read[-1].area.is_empty
    write_geojson(tmp_path / "again.geojson", read)
    assert json.loads((tmp_path / "again.geojson").read_text())["features"][-1] == nowhere
    asap = tmp_path / "drawn.xml.gz"
    asap.write_bytes(gzip.compress(ASAP.encode()))
    assert read_annotations(asap)[0].label == "Tumor"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SlideError, match=r"drawn\.geojson\.gz: cannot be read"):
        read_annotations(path)
    path.write_bytes(gzip.compress(b" " * (300 << 20), 1))
    with pytest.raises(SlideError, match="no drawing is that large"):
        read_annotations(path)


def camelyon(*regions: tuple[str, list[list[int]]]) -> str:
    parts = [
        f'<Annotation Name="a{n}" Type="Polygon" PartOfGroup="{group}"><Coordinates>'
        + "".join(f'<Coordinate Order="{k}" X="{x}" Y="{y}"/>' for k, (x, y) in enumerate(ring))
        + "</Coordinates></Annotation>"
        for n, (group, ring) in enumerate(regions)
    ]
    return f"<ASAP_Annotations><Annotations>{''.join(parts)}</Annotations></ASAP_Annotations>"


def test_holes_of_camelyon_are_no_class(tmp_path: Path) -> None:
    text = camelyon(("_0", SQUARE[:-1]), ("_2", HOLE[:-1]), ("_1", [[200, 0], [300, 0], [300, 50]]))
    read = read_annotations(saved(tmp_path, text, "tumor_001.xml"))
    assert [(one.label, one.include, one.area.area) for one in read] == [
        ("_0", True, 100**2 - 20**2), ("_1", True, 2500),
    ]  # fmt: skip
    write_geojson(tmp_path / "again.geojson", read)
    again = read_annotations(tmp_path / "again.geojson")
    assert [one.area.area for one in again] == [100**2 - 20**2, 2500]
    assert tile_labels(read, np.array([[40, 40], [10, 10]]), 20) == [None, "_0"]
    other = camelyon(("Tumor", SQUARE[:-1]), ("_2", HOLE[:-1]))  # another layout: names are names
    assert [one.label for one in read_annotations(saved(tmp_path, other, "o.xml"))] == [
        "Tumor", "_2",
    ]  # fmt: skip
