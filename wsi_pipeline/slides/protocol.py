"""What every opened slide offers, whichever library reads it."""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from wsi_pipeline.types import Region, RgbImage


@dataclass(frozen=True, kw_only=True)
class SlideInfo:
    """What a slide says about itself; nothing here is checked or guessed.

    Attributes:
        path: The path or URL it was opened from.
        reader: Who delivers the pixels: ``openslide``, ``tiffslide``, ``image``, ``jpeg-tiff``.
        reader_version: Version of that library.
        vendor: Scanner format as the reader calls it, such as ``aperio``.
        level_dimensions: (width, height) of each level, level 0 first and largest.
        level_downsamples: Level-0 pixels per pixel of the level, 1.0 first.
        mpp_x, mpp_y: Micrometres per level-0 pixel as found in the file, or None.
        mpp_source: The field they were found in; ``resolve_mpp`` judges them.
        objective_power: Nominal magnification, or None.
        bounds: The scanned part, level-0 pixels; smaller than the slide in MIRAX files.
        properties: Every metadata field, as text.
        associated: Names of the extra images (``label``, ``macro``, ``thumbnail``).
    """

    path: str
    reader: str
    reader_version: str
    vendor: str
    level_dimensions: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    mpp_x: float | None
    mpp_y: float | None
    mpp_source: str | None
    objective_power: float | None
    bounds: Region
    properties: dict[str, str]
    associated: tuple[str, ...]

    @property
    def dimensions(self) -> tuple[int, int]:
        """Level-0 (width, height)."""
        return self.level_dimensions[0]

    @property
    def mpp(self) -> float | None:
        """Mean of ``mpp_x`` and ``mpp_y`` as found; use ``resolve_mpp`` for a checked value."""
        if self.mpp_x is None or self.mpp_y is None:
            return None
        return (self.mpp_x + self.mpp_y) / 2


class Slide(Protocol):
    """An open slide. ``read`` may be called from several threads; a Slide is not pickled."""

    @property
    def info(self) -> SlideInfo: ...

    @property
    def decodes_once(self) -> bool:
        """Whether small reads cost no more than large ones, for native tiles are kept between them.

        True of reads that do not overlap and are in no wild order.
        """

    @property
    def dimensions(self) -> tuple[int, int]:
        """Level-0 (width, height)."""

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level, level 0 first."""

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level, 1.0 first."""

    @property
    def mpp(self) -> float | None:
        """Level-0 micrometres per pixel, checked; None where the file does not say it.

        Raises:
            MppError: What the file says cannot be true.
        """

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RgbImage:
        """A rectangle as OpenSlide names it: its corner on level 0, its size on the level.

        Args:
            location: Level-0 (x, y) of the top-left corner; may lie outside the slide. On a level
                above 0 the pixel nearest to it is the first: nothing is interpolated.
            level: Pyramid level.
            size: (width, height) in pixels of that level.

        Returns:
            (height, width, 3) uint8 RGB, no RGBA picture; white where OpenSlide is transparent.

        Raises:
            SlideReadError: There is no such level, or the pixels cannot be decoded.
        """

    def read(self, level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        """Pixels of one level.

        Args:
            level: Pyramid level, 0 is the largest.
            x, y: Top-left corner in pixels of that level; may lie outside the slide.
            width, height: Size in pixels of that level.

        Returns:
            (height, width, 3) uint8 RGB; white outside the slide and where it is transparent.

        Raises:
            SlideReadError: The pixels cannot be decoded.
        """

    def read_into(self, level: int, x: int, y: int, out: RgbImage) -> None:
        """Like ``read``, but fills ``out``, (height, width, 3) uint8.

        New memory costs a page fault for every 4 kB, often more than copying does: whoever reads
        much reads into the same array again and again.
        """

    def associated_image(self, name: str) -> RgbImage:
        """One of ``info.associated`` as (h, w, 3) uint8 RGB; SlideReadError if there is none."""

    def thumbnail(self, max_px: int) -> RgbImage:
        """The scanned part (``info.bounds``), (h, w, 3) uint8, longest side at most ``max_px``."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Pixels(Protocol):
    """What is read as if it were a level of its own."""

    def read_into(self, level: int, x: int, y: int, out: RgbImage, /) -> None: ...


@runtime_checkable
class Reducible(Protocol):
    """A slide whose tiles may decode at a fraction of their size, see ``SlideReader.reduced``."""

    def reduced(self, level: int, factor: int) -> Pixels | None: ...
