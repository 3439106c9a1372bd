"""Draw one planned slide and write it; a pure function of its plan."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.synthetic.artefacts import INKS, ink_band, pen_marks
from wsi_pipeline.synthetic.associated import label_image, macro_image
from wsi_pipeline.synthetic.cohort import CoreSpec, SlideSpec
from wsi_pipeline.synthetic.glass import Glass, Piece, Pieces, Section
from wsi_pipeline.synthetic.scanner import BAND_PX, SCANNERS, Scanner, scan, vary_colours
from wsi_pipeline.synthetic.scene import MPP, core, section
from wsi_pipeline.synthetic.seeds import generator
from wsi_pipeline.synthetic.svs import SvsHeader, write_svs
from wsi_pipeline.synthetic.uptake import draw_uptake
from wsi_pipeline.types import RgbImage

_DEFOCUS_PX = 9.0
_KEPT_OF_TRUNCATED = 0.6


def write_slide(spec: SlideSpec, out_dir: Path) -> Path:
    """Draw a slide and write it as ``out_dir/<slide_id>.svs``.

    Returns:
        The path of the file. Equal specs give equal bytes, in any process and order.
    """
    path = out_dir / spec.file_name
    rng = generator(spec.seed, spec.slide_id)
    scanner = vary_colours(generator(spec.seed, spec.slide_id, "colours"), SCANNERS[spec.scanner])
    glass = _tma(spec) if spec.cores else _whole(rng, spec)
    defocus = _DEFOCUS_PX if spec.artefact == "blurred" else 0.0
    bands = scan(rng, glass, scanner, defocus)
    if spec.artefact in INKS:
        bands = _inked(rng, bands, spec)
    label = label_image(spec.slide_id)
    with atomic_file(path) as partial:
        write_svs(
            partial,
            _header(spec, scanner),
            bands,
            lambda thumbnail: (label, macro_image(thumbnail, label)),
        )
        if spec.artefact == "truncated":
            os.truncate(partial, int(partial.stat().st_size * _KEPT_OF_TRUNCATED))
    return path


def _header(spec: SlideSpec, scanner: Scanner) -> SvsHeader:
    return SvsHeader(
        width=spec.width,
        height=spec.height,
        mpp=MPP,
        objective_power=40,
        quality=scanner.quality,
        properties=(
            ("Title", f"SYNTHETIC slide {spec.slide_id}: drawn by a program, no patient"),
            ("ScanScope ID", scanner.name),
            ("Filename", spec.slide_id),
            ("ImageID", spec.slide_id),
            ("OriginalWidth", str(spec.width)),
            ("OriginalHeight", str(spec.height)),
        ),
    )


def _whole(rng: np.random.Generator, spec: SlideSpec) -> Glass:
    if spec.artefact == "blank" or spec.label is None:
        return Pieces(width=spec.width, height=spec.height, pieces=())
    uptake = draw_uptake(generator(spec.seed, spec.patient_id or spec.slide_id, "stain"))
    return Section(dye=section(rng, spec.label, (spec.width, spec.height), uptake))


def _tma(spec: SlideSpec) -> Glass:
    return Pieces(
        width=spec.width,
        height=spec.height,
        pieces=tuple(_piece(spec.seed, one) for one in spec.cores if one.present),
    )


def _piece(seed: int, one: CoreSpec) -> Piece:
    side = 2 * int(one.diameter_px * 0.54)
    uptake = draw_uptake(generator(seed, one.patient_id, "stain"))
    return Piece(
        x=one.x - side // 2,
        y=one.y - side // 2,
        side=side,
        draw=lambda: core(generator(seed, one.core_id), one.label, side, one.diameter_px, uptake),
    )


def _inked(
    rng: np.random.Generator, bands: Iterator[RgbImage], spec: SlideSpec
) -> Iterator[RgbImage]:
    ink = pen_marks(rng, (spec.width, spec.height))
    for index, band in enumerate(bands):
        rows = slice(index * BAND_PX, index * BAND_PX + band.shape[0])
        passed = ink_band(ink, INKS[spec.artefact], rows, spec.width)
        yield np.rint(band * passed).astype(np.uint8)
