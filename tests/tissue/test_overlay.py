"""The overlay marks what it says, and nothing else."""

import numpy as np

from wsi_pipeline.tissue import Outline, TileLayer, class_colours, draw_annotation, draw_overlay
from wsi_pipeline.tissue.annotations import Annotation
from wsi_pipeline.tissue.colours import PALETTE

BLUE, RED = (36, 96, 214), (220, 38, 127)


def test_tiles_outline_and_flags_are_drawn_where_they_are() -> None:
    rgb = np.full((200, 300, 3), 200, np.uint8)
    mask = np.zeros((200, 300), bool)
    mask[50:150, 50:250] = True
    plain = draw_overlay(rgb, mask)
    kept = TileLayer(boxes=[[60, 60, 90, 90]], colour=BLUE)
    drawn = draw_overlay(
        rgb, mask, [kept, TileLayer(boxes=[[100, 60, 130, 90]], colour=RED, filled=True)]
    )
    assert (rgb == 200).all()
    changed = (drawn != plain).any(axis=2)
    assert changed[60, 61:89].all()
    assert not changed[62:88, 62:88].any()
    assert changed[60:90, 100:130].all()
    assert drawn[75, 115].argmin() == 1  # towards the flag's own colour
    assert drawn[60, 75].argmax() == 2
    changed[60:90, 60:90] = changed[60:90, 100:130] = False
    assert not changed.any()
    assert (plain[100, 50] != 200).any()
    assert (plain[100, 150] == 200).all()
    assert (plain[10, 10] > 200).all()


def test_a_smaller_mask_is_stretched() -> None:
    rgb = np.full((80, 120, 3), 100, np.uint8)
    mask = np.zeros((8, 12), bool)
    mask[2:6, 3:9] = True
    drawn = draw_overlay(rgb, mask)
    assert (drawn[40, 60] == 100).all()
    assert (drawn[5, 5] > 100).all()


def test_a_drawn_region_is_outlined_in_its_colour_and_may_reach_beyond() -> None:
    rgb = np.full((200, 300, 3), 200, np.uint8)
    mask = np.ones((200, 300), bool)
    ring = np.array([[40.0, 30], [1e9, 30], [1e9, 160], [40, 160]])
    drawn = draw_overlay(rgb, mask, regions=[Outline(rings=[ring], colour=RED)])
    assert (drawn[100, 40] == RED).all()
    assert (drawn[30, 250] == RED).all()
    assert (drawn[100, 150] == 200).all()
    assert (drawn[100, 20] == 200).all()


def drawn(label: str | None, **properties: object) -> Annotation:
    import shapely

    made = draw_annotation(shapely.box(0, 0, 9, 9), label)
    plain = {} if label is None else {"classification": {"name": label}}  # no colour of ours
    feature = {
        **made.feature,
        "properties": {**made.feature["properties"], **plain, **properties},
    }
    return Annotation(label=label, area=made.area, include=True, feature=feature)


def test_classes_keep_the_colours_that_qupath_gave_them() -> None:
    tumour = {"name": "Tumor", "color": [200, 0, 0]}
    stroma = {"name": "Stroma", "colorRGB": -6895466}  # QuPath's own, as older versions write it
    colours = class_colours(
        [
            drawn("Stroma", classification=stroma),
            drawn("Tumor", classification=tumour),
            drawn("B"),
            drawn("A"),
            drawn(None, color=[1, 2, 3]),
        ]
    )
    assert colours["Tumor"] == (200, 0, 0)
    assert colours["Stroma"] == (150, 200, 150)
    assert [colours["A"], colours["B"]] == list(PALETTE[:2])
    assert list(colours) == ["A", "B", "Stroma", "Tumor"]


def test_our_colours_are_not_those_of_another_class_and_bad_ones_are_passed_over() -> None:
    taken = {"name": "Z", "color": list(PALETTE[0])}
    wrong = {"name": "Y", "color": [300, "red", None], "colorRGB": "x"}
    colours = class_colours([drawn("Z", classification=taken), drawn("Y", classification=wrong)])
    assert colours == {"Y": PALETTE[1], "Z": PALETTE[0]}
