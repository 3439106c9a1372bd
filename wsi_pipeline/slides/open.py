"""Open any slide with the reader that suits it."""

from pathlib import Path
from typing import Literal

from wsi_pipeline.errors import ConfigError, SlideOpenError
from wsi_pipeline.slides.digest import is_url
from wsi_pipeline.slides.ome import is_ome
from wsi_pipeline.slides.protocol import Slide
from wsi_pipeline.slides.reader import SlideReader
from wsi_pipeline.slides.tiff_header import check_levels, check_tiff, read_directories

Modality = Literal["slide", "ct"]
Icc = Literal["keep", "apply"]

READERS = ("auto", "openslide", "jpeg-tiff", "tiffslide", "image")
_PICTURES = {".png", ".jpg", ".jpeg"}
_TIFFS = {".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif"}


def open_slide(
    path: str | Path,
    reader: str = "auto",
    threads: int = 1,
    *,
    modality: Modality = "slide",
    icc: Icc = "keep",
) -> Slide:
    """Open a slide.

    Args:
        path: A slide file, a folder with one DICOM slide, or a URL that fsspec understands.
        reader: ``auto`` takes TiffSlide for URLs, the flat-picture reader for PNG and JPEG,
            the native decoder for TIFFs with JPEG tiles, OpenSlide for everything else; TiffSlide
            for an OME-TIFF with a pyramid, and for a TIFF that OpenSlide refuses TiffSlide, then
            the flat-picture reader. Any other of ``READERS`` is taken as it is.
        threads: Tiles the native decoder decodes at a time within one read, if it is a large one.
        modality: ``ct`` reads a DICOM CT slice as a flat grey picture, which is refused else.
        icc: ``apply`` changes the levels' colours to sRGB by the slide's ICC profile, where it
            has one; ``info.properties`` says so.

    Raises:
        SlideOpenError: It is missing, not a slide, or broken.
        ConfigError: There is no such reader.
    """
    if reader not in READERS:
        raise ConfigError(f"reader {reader!r} is unknown; choose one of {', '.join(READERS)}.")
    if not is_url(path):
        _check_file(Path(path))
    elif reader not in ("auto", "tiffslide") or modality != "slide":
        raise ConfigError(f"{path}: only the tiffslide reader opens URLs, not {reader!r}.")
    if modality == "ct":
        return _open_with("ct", path)
    slide = _open_auto(path, threads) if reader == "auto" else _open_with(reader, path, threads)
    return _checked(slide, icc)


def open_for_metadata(path: str | Path) -> Slide:
    """Open a slide as ``open_slide`` does, but leave out the native decoder's probes.

    A TIFF that they might accept is opened with OpenSlide, at a third of the time.

    Raises:
        SlideOpenError: As for ``open_slide``.
    """
    if not is_url(path):
        _check_file(Path(path))
    return _checked(_open_auto(path, tiff_reader="openslide"))


def _checked(slide: SlideReader, icc: Icc = "keep") -> Slide:
    try:
        check_levels(slide.info.path, slide.info.level_dimensions)
        profile = slide.icc_profile()
        if profile:
            from wsi_pipeline.slides.icc import APPLIED, describe_profile, to_srgb

            slide.info.properties.update(describe_profile(profile))
            if icc == "apply":
                slide.recolour = to_srgb(slide.info.path, profile)
                slide.info.properties[APPLIED] = "to sRGB"
    except SlideOpenError:
        slide.close()
        raise
    return slide


def _open_auto(path: str | Path, threads: int = 1, tiff_reader: str = "fastest") -> SlideReader:
    if is_url(path):
        return _open_with("tiffslide", path)
    suffix = Path(path).suffix.lower()
    if suffix in _PICTURES:
        return _open_with("image", path)
    if suffix in _TIFFS and _hides_levels(Path(path)):
        return _open_with("tiffslide", path)
    try:
        return _open_with(tiff_reader if suffix in _TIFFS else "openslide", path, threads)
    except SlideOpenError as refusal:
        if suffix not in _TIFFS:
            raise
        return _open_other_tiff(path, refusal)


def _hides_levels(path: Path) -> bool:
    """Whether it is an OME-TIFF with its pyramid in SubIFDs, of which OpenSlide sees level 0."""
    directories = read_directories(path)
    return any(d.reduced for d in directories) and is_ome(directories[0].description)


def _open_other_tiff(path: str | Path, refusal: SlideOpenError) -> SlideReader:
    for reader in ("tiffslide", "image"):
        try:
            return _open_with(reader, path)
        except SlideOpenError:
            continue
    raise refusal


def _open_with(reader: str, path: str | Path, threads: int = 1) -> SlideReader:
    # Imported when used: TiffSlide alone brings zarr and takes half a second.
    match reader:
        case "fastest":
            from wsi_pipeline.slides.jpeg_tiff import open_fastest

            return open_fastest(path, threads)
        case "jpeg-tiff":
            from wsi_pipeline.slides.jpeg_tiff import open_jpeg_tiff

            return open_jpeg_tiff(path, threads)
        case "openslide":
            from wsi_pipeline.slides.openslide_reader import OpenSlideReader

            return OpenSlideReader(path)
        case "tiffslide":
            from wsi_pipeline.slides.tiffslide_reader import TiffSlideReader

            return TiffSlideReader(path)
        case "ct":
            from wsi_pipeline.slides.ct_reader import CtReader

            return CtReader(path)
        case _:
            from wsi_pipeline.slides.image_reader import ImageReader

            return ImageReader(path)


def _check_file(path: Path) -> None:
    try:
        if not path.exists():
            raise SlideOpenError(f"{path}: there is no such file; check the path.")
        if path.is_file():
            if path.stat().st_size == 0:
                raise SlideOpenError(f"{path}: the file is empty; fetch it again.")
            check_tiff(path)
    except PermissionError as error:
        raise SlideOpenError(f"{path}: it may not be read; check its permissions.") from error
