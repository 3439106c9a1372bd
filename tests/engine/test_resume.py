"""Resume compares what was asked then with what is asked now, and says how to go on."""

import pytest

from wsi_pipeline.engine import is_done
from wsi_pipeline.errors import StoreMismatchError
from wsi_pipeline.tiles import TileSettings, settings_of_store

ASKED = TileSettings().model_dump(mode="json")
OLD = {  # as runs were stored before blur was told by sharpness
    name: value
    for name, value in ASKED.items()
    if name
    not in ("background_rule", "also_flag", "min_relative_sharpness", "force_mpp", "stain_backend")
} | {
    "min_focus": 20.0,
    "min_relative_focus": 0.1,
    "max_pen_fraction": 0.1,
    "max_blood_fraction": 0.5,
}


def test_an_earlier_run_goes_on_with_the_rule_it_was_begun_with(tmp_path):
    asked = ASKED | {"background_rule": "normalised"}
    stored = settings_of_store(OLD, asked)
    assert is_done(tmp_path, {"config": stored}, {"config": asked}, overwrite=False)


def test_the_flag_that_goes_on_is_named(tmp_path):
    stored = settings_of_store(OLD, ASKED)
    with pytest.raises(StoreMismatchError, match="--background-rule normalised to go on"):
        is_done(tmp_path, {"config": stored}, {"config": ASKED}, overwrite=False)


def test_where_flagged_tiles_were_dropped_other_flag_rules_make_another_store(tmp_path):
    dropped = {"drop_flagged": ["pen"], "background_rule": "normalised"}
    stored, asked = settings_of_store(OLD | dropped, ASKED | dropped), ASKED | dropped
    with pytest.raises(StoreMismatchError, match=r"max_pen_fraction: 0\.1, asked 0\.04"):
        is_done(tmp_path, {"config": stored}, {"config": asked}, overwrite=False)


def test_no_flag_is_offered_where_the_file_itself_changed(tmp_path):
    then, now = {"slide_digest": "a", "config": ASKED}, {"slide_digest": "b", "config": ASKED}
    with pytest.raises(StoreMismatchError) as refused:
        is_done(tmp_path, then, now, overwrite=False)
    assert "to go on" not in str(refused.value)
