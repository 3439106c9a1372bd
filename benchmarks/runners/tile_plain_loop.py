"""The loop of the tutorials: read with OpenSlide, shrink with Pillow, save as JPEG."""

import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from plain_slide import PlainSlide
from protocol import report, tile_arguments


def _normaliser(references: Iterator[Image.Image]) -> Callable[[Image.Image], Image.Image]:
    """Staintools as its README shows it: brightness standardised, then Macenko's stains."""
    import staintools
    from staintools.miscellaneous.exceptions import TissueMaskException

    normaliser = staintools.StainNormalizer(method="macenko")
    for reference in references:
        try:
            normaliser.fit(staintools.LuminosityStandardizer.standardize(np.asarray(reference)))
        except AssertionError:  # it finds a stain of negative density
            continue
        break

    def normalise(tile: Image.Image) -> Image.Image:
        standard = staintools.LuminosityStandardizer.standardize(np.asarray(tile))
        try:
            return Image.fromarray(normaliser.transform(standard))
        except TissueMaskException:  # too little tissue to fit on
            return tile

    return normalise


def main() -> None:
    given = tile_arguments()
    if given.stain:
        import staintools  # noqa: F401  # its start-up is not the work
    begun = time.perf_counter()
    slide = PlainSlide(given.slide, given.mpp, given.tile_px)
    normalise = _normaliser(slide.tile(x, y) for x, y in slide.coords) if given.stain else None
    for x, y in slide.coords:
        tile = slide.tile(x, y)
        if normalise is not None:
            tile = normalise(tile)
        tile.save(given.out / f"{x}_{y}.jpg", quality=90)
    report(len(slide.coords), seconds=time.perf_counter() - begun)


if __name__ == "__main__":
    main()
