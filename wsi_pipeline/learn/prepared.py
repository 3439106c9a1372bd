"""How the features of a slide were made, as far as a model depends on it."""

from collections.abc import Mapping
from typing import Any, Final

from wsi_pipeline.errors import LearnError

TOLERANCE: Final = 0.02  # of numbers: what counts as the same mpp


def feature_settings(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return encoder, tile size, mpp and stain method from a feature store's attributes.

    What a store does not say (another tool's file) is left out.
    """
    settings = {
        name: attributes[name]
        for name in ("encoder", "tile_px", "mpp", "overlap")
        if attributes.get(name) is not None
    }
    stain = attributes.get("stain")
    method = stain.get("method") if isinstance(stain, Mapping) else stain
    return settings | ({"stain": method} if method is not None else {})


def shared_settings(of_slides: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that all slides share.

    Args:
        of_slides: :func:`feature_settings` of each slide, by slide_id.

    Raises:
        LearnError: Two slides differ; they are named.
    """
    first, expected = next(iter(of_slides.items()))
    for slide_id, found in of_slides.items():
        for name in sorted(expected.keys() | found.keys()):
            if not same_setting(expected.get(name), found.get(name)):
                raise LearnError(
                    f"slides {first!r} and {slide_id!r} were prepared differently: {name} is "
                    f"{expected.get(name)!r} and {found.get(name)!r}; tile and extract them alike"
                )
    return dict(expected)


def same_setting(expected: Any, found: Any) -> bool:
    """Compare two settings; numbers are the same within 2 %."""
    numbers = (int, float)
    if isinstance(expected, numbers) and isinstance(found, numbers):
        return abs(expected - found) <= TOLERANCE * abs(expected)
    return bool(expected == found)
