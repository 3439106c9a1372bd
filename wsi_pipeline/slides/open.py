"""Open any slide with the reader that suits it.

To add a reader, write its module and its entry in ``READERS``: ``--reader``, the order of trial and
the search for slides in a folder know it from there.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageCms

from wsi_pipeline.errors import ConfigError, SlideOpenError
from wsi_pipeline.registry import Registry
from wsi_pipeline.slides.protocol import Slide
from wsi_pipeline.slides.reader import SlideReader, UnsuitableError, is_url, reason
from wsi_pipeline.slides.tiff_header import check_levels, check_planes, check_tiff, hides_levels
from wsi_pipeline.types import Icc, Modality, RgbImage

Open = Callable[[str | Path, int], SlideReader]  # a path, and threads for one large read

AUTO: Final = "auto"
ANY: Final = "*"
PICTURES: Final = (".png", ".jpg", ".jpeg")
TIFFS: Final = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif", ".qptiff")
PLAIN_TIFFS: Final = ("generic-tiff", "tiff")  # vendors of files whose maker nobody knows
ICC_APPLIED: Final = "icc.applied"  # the property that says so
_ICC_FAULTS = (ImageCms.PyCMSError, OSError, ValueError, TypeError)

log = getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One way to read slides; ``auto`` tries those that suit in the order of the table.

    Attributes:
        load: Imports it, and returns what opens a slide: each brings a library, and TiffSlide
            alone takes half a second.
        suffixes: Of the files it is tried on; ``*`` stands for those that no reader names.
        modality: What it shows.
        urls: Whether it opens what fsspec understands.
        subifds: Whether it sees pyramids in SubIFDs, as OME-TIFF has them.
        native: It decodes the file's own tiles after some probes, for which metadata do not wait.
    """

    load: Callable[[], Open]
    suffixes: tuple[str, ...] = ()
    modality: Modality = "slide"
    urls: bool = False
    subifds: bool = False
    native: bool = False


def _auto() -> Open:
    return _open_first


def _jpeg_tiff() -> Open:
    from wsi_pipeline.slides.jpeg_tiff import JpegTiffReader

    return JpegTiffReader


def _dicom() -> Open:
    from wsi_pipeline.slides.dicom_reader import DicomReader

    return DicomReader


def _openslide() -> Open:
    from wsi_pipeline.slides.openslide_reader import OpenSlideReader

    return OpenSlideReader


def _tiffslide() -> Open:
    from wsi_pipeline.slides.tiffslide_reader import TiffSlideReader

    return TiffSlideReader


def _image() -> Open:
    from wsi_pipeline.slides.image_reader import ImageReader

    return ImageReader


def _ct() -> Open:
    from wsi_pipeline.slides.ct_reader import CtReader

    return CtReader


def _own(name: str, found: object) -> Reader:
    """Make a reader of a user's function: it takes a path or URL and returns a SlideReader.

    Raises:
        ConfigError: It is no function, or when called does not return one.
    """
    if not callable(found):
        raise ConfigError(f"slide reader {name!r}: it is no function of a path")

    def open_own(path: str | Path, _threads: int) -> SlideReader:
        slide = found(path)
        if not isinstance(slide, SlideReader):
            raise ConfigError(
                f"slide reader {name!r}: it returned a {type(slide).__name__}; it must return a "
                "wsi_pipeline.slides.SlideReader"
            )
        return slide

    return Reader(load=lambda: open_own, urls=True)


READERS: Final = Registry(
    "slide reader",
    {
        AUTO: Reader(load=_auto, urls=True),
        "jpeg-tiff": Reader(load=_jpeg_tiff, suffixes=TIFFS, native=True, subifds=True),
        "dicom": Reader(load=_dicom, suffixes=(ANY,), native=True),
        "openslide": Reader(
            load=_openslide,
            suffixes=(*TIFFS, ".mrxs", ".vms", ".vmu", ".vsi", ".svslide", ".czi", ANY),
        ),
        "tiffslide": Reader(load=_tiffslide, suffixes=TIFFS, urls=True, subifds=True),
        "image": Reader(load=_image, suffixes=(*PICTURES, *TIFFS)),
        "ct": Reader(load=_ct, suffixes=(ANY,), modality="ct"),
    },
    wrap=_own,
)
"""Every reader by name."""


def open_slide(
    path: str | Path,
    reader: str = AUTO,
    threads: int = 1,
    *,
    modality: Modality = "slide",
    icc: Icc = "keep",
) -> Slide:
    """Open a slide.

    Args:
        path: A slide file, a folder with one DICOM slide, or a URL that fsspec understands.
        reader: A name of ``READERS``, or ``module:function`` for one of your own. ``auto`` takes
            TiffSlide for URLs, the flat-picture reader for PNG and JPEG, the native decoders for
            TIFFs and DICOM with JPEG tiles, OpenSlide for everything else; TiffSlide for an
            OME-TIFF with a pyramid, and for a TIFF that OpenSlide refuses TiffSlide, then the
            flat-picture reader.
        threads: Tiles the native decoder decodes at a time within one read, if it is a large one.
        modality: ``ct`` reads a DICOM CT slice as a flat grey picture, which is refused else.
        icc: ``apply`` changes the levels' colours to sRGB by the slide's ICC profile, where it
            has one; ``info.properties`` says so.

    Raises:
        SlideOpenError: It is missing, not a slide, or broken.
        ConfigError: There is no such reader, or it cannot open URLs or the modality.
    """
    chosen = READERS.choose(reader)
    if is_url(path) and not (chosen.urls and modality == "slide"):
        known = [name for name, each in READERS.items() if each.urls and name != AUTO]
        raise ConfigError(f"{path}: only the {known[0]} reader opens URLs, not {reader!r}.")
    if reader == AUTO:
        chosen = next(each for each in READERS.values() if each.modality == modality)
    if chosen.modality != modality:
        raise ConfigError(
            f"reader {reader!r} reads modality {chosen.modality}, not {modality}; leave it out."
        )
    _check_file(path)
    try:
        return _checked(chosen.load()(path, threads), icc, planes=reader == "tiffslide")
    except UnsuitableError as error:
        raise SlideOpenError(
            f"{path}: the {reader} reader does not apply, because {error}; use --reader auto."
        ) from error


def open_for_metadata(path: str | Path) -> Slide:
    """Open a slide as ``open_slide`` does, but leave out the native decoder's probes.

    A TIFF that they might accept is opened with OpenSlide, at a third of the time.

    Raises:
        SlideOpenError: As for ``open_slide``.
    """
    _check_file(path)
    return _checked(_open_first(path, native=False))


def slide_suffixes() -> frozenset[str]:
    """Return the suffixes of the files that some reader names, in lower case."""
    return frozenset(s for each in READERS.values() for s in each.suffixes) - {ANY}


def _open_first(path: str | Path, threads: int = 1, *, native: bool = True) -> SlideReader:
    """Open with the first suitable reader that can; the first refusal is the one told."""
    refusal: SlideOpenError | None = None
    for name, each in _suitable(path).items():
        if each.native and not native:
            continue
        try:
            return each.load()(path, threads)
        except UnsuitableError as error:
            if error.suspicious:
                log.warning("%s: not read by %s, because %s", path, name, error)
        except SlideOpenError as error:
            refusal = refusal or error
    raise refusal or SlideOpenError(f"{path}: there is no reader that applies to it.")


def _suitable(path: str | Path) -> dict[str, Reader]:
    """Return the readers to try on a slide, in order."""
    readers = {n: each for n, each in READERS.items() if each.modality == "slide" and n != AUTO}
    if is_url(path):
        return {name: each for name, each in readers.items() if each.urls}
    suffix = Path(path).suffix.lower()
    named = {name: each for name, each in readers.items() if suffix in each.suffixes}
    if not named:
        return {name: each for name, each in readers.items() if ANY in each.suffixes}
    if suffix in TIFFS and hides_levels(Path(path)):
        return {name: each for name, each in named.items() if each.subifds}
    return named


def _check_file(path: str | Path) -> None:
    if is_url(path):
        return
    path = Path(path)
    try:
        if not path.exists():
            raise SlideOpenError(f"{path}: there is no such file; check the path.")
        if path.is_file():
            if path.stat().st_size == 0:
                raise SlideOpenError(f"{path}: the file is empty; fetch it again.")
            check_tiff(path)
    except PermissionError as error:
        raise SlideOpenError(f"{path}: it may not be read; check its permissions.") from error


def _checked(slide: SlideReader, icc: Icc = "keep", *, planes: bool = False) -> Slide:
    """Check what a reader has opened; ``planes``: it was named to make colours of three planes."""
    try:
        check_levels(slide.info.path, slide.info.level_dimensions)
        if slide.info.vendor in PLAIN_TIFFS and not planes and not is_url(slide.info.path):
            check_planes(Path(slide.info.path))
        profile = slide.icc_profile()
        if profile:
            slide.info.properties.update(_describe_profile(profile))
            if icc == "apply":
                slide.recolour = _to_srgb(slide.info.path, profile)
                slide.info.properties[ICC_APPLIED] = "to sRGB"
    except SlideOpenError:
        slide.close()
        raise
    return slide


def _describe_profile(profile: bytes) -> dict[str, str]:
    """What is recorded of a profile: its name and a digest; nothing where there is none."""
    if not profile:
        return {}
    try:
        name = ImageCms.getProfileDescription(io.BytesIO(profile)).strip()
    except _ICC_FAULTS:
        name = "unreadable"
    digest = hashlib.blake2b(profile, digest_size=8).hexdigest()
    return {"icc.description": name, "icc.digest": digest}


def _to_srgb(path: str, profile: bytes) -> Callable[[RgbImage], RgbImage]:
    """Make the change from a slide's colours to sRGB.

    Relative colorimetric with black-point compensation: colours that both can show stay what they
    are, and glass becomes white.

    Args:
        path: The slide, for the error.
        profile: Its ICC profile, of an RGB device.

    Returns:
        A function from (h, w, 3) uint8 to the same; several threads may call it.

    Raises:
        SlideOpenError: The profile is damaged, or not of RGB.
    """
    try:
        transform = ImageCms.buildTransform(
            io.BytesIO(profile),
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except _ICC_FAULTS as error:
        raise SlideOpenError(
            f"{path}: its ICC profile cannot be used ({reason(error)}); leave its colours as they"
            " are (--icc keep)."
        ) from error

    def apply(rgb: RgbImage) -> RgbImage:
        image = Image.fromarray(np.ascontiguousarray(rgb))
        return np.array(ImageCms.applyTransform(image, transform), dtype=np.uint8)

    return apply
