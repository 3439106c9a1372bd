"""The overlay marks what it says, and nothing else."""

import numpy as np
import pytest

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.tissue import draw_overlay


def test_tiles_outline_and_flags_are_drawn_where_they_are() -> None:
    rgb = np.full((200, 300, 3), 200, np.uint8)
    mask = np.zeros((200, 300), bool)
    mask[50:150, 50:250] = True
    boxes = [[60, 60, 90, 90], [100, 60, 130, 90]]
    plain = draw_overlay(rgb, mask, np.zeros((0, 4)))
    drawn = draw_overlay(rgb, mask, boxes, np.array([False, True]))
    assert (rgb == 200).all()
    changed = (drawn != plain).any(axis=2)
    assert changed[60, 61:89].all()
    assert not changed[62:88, 62:88].any()
    assert changed[60:90, 100:130].all()
    changed[60:90, 60:90] = changed[60:90, 100:130] = False
    assert not changed.any()
    assert (plain[100, 50] != 200).any()
    assert (plain[100, 150] == 200).all()
    assert (plain[10, 10] > 200).all()


def test_a_smaller_mask_is_stretched() -> None:
    rgb = np.full((80, 120, 3), 100, np.uint8)
    mask = np.zeros((8, 12), bool)
    mask[2:6, 3:9] = True
    drawn = draw_overlay(rgb, mask, np.zeros((0, 4)))
    assert (drawn[40, 60] == 100).all()
    assert (drawn[5, 5] > 100).all()


def test_flags_for_other_tiles_are_refused() -> None:
    with pytest.raises(ConfigError, match="flags"):
        draw_overlay(
            np.zeros((9, 9, 3), np.uint8), np.ones((9, 9), bool), [[0, 0, 3, 3]], np.ones(2)
        )
