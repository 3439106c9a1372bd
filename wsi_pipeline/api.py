"""What users import: a slide to its tissue, tiles and features, a run folder to models.

Thin: each function is a stage's or a room's own, with paths as text or ``Path``. ``wsi_pipeline``
offers these names and imports what they need when they are first used.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline import __version__
from wsi_pipeline.errors import ConfigError, WsiError, named
from wsi_pipeline.features import (
    DEFAULT,
    Encoded,
    Encoder,
    FeatureBag,
    describe_features,
    encode_slides,
    find_features,
    load_encoder,
    read_features,
    write_features,
)
from wsi_pipeline.opened_run import Model, Run, open_run
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.screen import carry_out
from wsi_pipeline.settings import MOST_THREADS, usable_cores
from wsi_pipeline.slides import LowImage, Slide, open_slide
from wsi_pipeline.tiles import (
    STORE_FORMATS,
    WHOLE_SLIDE,
    SlideCut,
    SlideRequest,
    TileDataset,
    TileSettings,
    TileStore,
    open_cut,
    open_tiles,
    plan_cut,
    survey_slide,
)
from wsi_pipeline.tissue import Tissue, tissue_fractions
from wsi_pipeline.types import Coords, Mask, RgbImage, RgbTiles
from wsi_pipeline.verbs import VERBS

if TYPE_CHECKING:
    import pandas as pd

    from wsi_pipeline.workbench import View

THUMBNAIL_PX: Final = 1024
__all__ = [
    "Encoder",
    "FeatureBag",
    "Model",
    "Run",
    "Slide",
    "Tile",
    "TileDataset",
    "TileStore",
    "TissueMask",
    "WsiError",
    "encode",
    "heatmap",
    "load_encoder",
    "open_run",
    "open_slide",
    "open_tiles",
    "predict",
    "read_features",
    "tiles",
    "tissue_mask",
    "train",
    "view",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class TissueMask:
    """Where the tissue is on a slide, on an overview of it; an array to NumPy.

    Attributes:
        mask: (H, W) bool.
        downsample: Level-0 pixels per pixel of the mask.
        origin: Level-0 (x, y) of its top-left corner.
        mpp: µm per level-0 pixel.
        tissue: Method, thresholds, glass, flags and pieces left out.
        picture: The same part of the slide, for people.
    """

    mask: Mask
    downsample: float
    origin: tuple[float, float]
    mpp: float | None
    tissue: Tissue
    picture: LowImage

    @property
    def area_mm2(self) -> float | None:
        """Of the tissue; None where the resolution is unknown."""
        if self.mpp is None:
            return None
        return float(self.mask.sum()) * (self.downsample * self.mpp / 1000) ** 2

    def fractions(self, coords: Coords, tile_px_level0: float) -> NDArray[np.float32]:
        """Share of tissue, (N,) float32, of tiles at level-0 (x, y) ``coords`` (N, 2)."""
        return tissue_fractions(self.mask, coords, tile_px_level0, self.downsample, self.origin)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.mask, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        height, width = self.mask.shape
        area = "" if self.area_mm2 is None else f", {self.area_mm2:.1f} mm²"
        flags = f", flags {', '.join(self.tissue.flags)}" if self.tissue.flags else ""
        return f"<TissueMask {width}×{height}: {self.mask.mean():.0%} tissue{area}{flags}>"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """One tile of a slide.

    Attributes:
        image: (tile_px, tile_px, 3) uint8 RGB, stain-normalised if that was asked for.
        coords: Level-0 (x, y) of its top-left corner.
        measures: ``tissue_fraction``, ``background_fraction``, ``focus``, ``pen_fraction`` …
    """

    image: RgbImage
    coords: tuple[int, int]
    measures: Mapping[str, float]


def tissue_mask(
    slide: Slide | str | Path, *, annotations: str | Path | None = None, **settings: Any
) -> TissueMask:
    """Find the tissue of a slide, as the tile stage does.

    Args:
        slide: An open slide, or its path.
        annotations: Regions drawn on it, QuPath's GeoJSON or ASAP's XML.
        **settings: Those of the tile stage: ``tissue_method="otsu"``, ``mpp_override=0.5`` …

    Raises:
        SlideError: It cannot be opened or read, or has no usable resolution.
        ConfigError: There is no such setting.
    """
    asked = _settings({"allow_coarser": True} | settings)  # of a mask no tiles are cut
    with _opened(slide, asked) as opened:
        plan = survey_slide(opened, asked, _request(annotations))
    return TissueMask(
        mask=plan.tissue.mask,
        downsample=plan.tissue_downsample,
        origin=plan.picture.origin,
        mpp=plan.mpp,
        tissue=plan.tissue,
        picture=plan.picture,
    )


def tiles(
    slide: Slide | str | Path, *, annotations: str | Path | None = None, **settings: Any
) -> Iterator[Tile]:
    """Yield a slide's tiles with tissue, in the order, place and colours of the tile stage.

    Args:
        slide: An open slide, or its path.
        annotations: Regions drawn on it, QuPath's GeoJSON or ASAP's XML.
        **settings: Those of the tile stage: ``mpp=0.5``, ``tile_px=256``, ``stain="none"``,
            ``overlap_px=0``, ``mpp_override=…`` for a file that does not say its resolution.

    Raises:
        SlideError: It cannot be opened or read, has no usable resolution, or no tissue.
        ConfigError: There is no such setting, or sizes contradict each other.
    """
    asked = _settings(settings)  # here, not when the first tile is asked for
    return _tiles(slide, asked, _request(annotations))


def _tiles(slide: Slide | str | Path, asked: TileSettings, request: SlideRequest) -> Iterator[Tile]:
    with _cut(slide, asked, request) as cut, closing(cut.finished_tiles()) as finished:
        for part in finished:
            for row, (image, (x, y)) in enumerate(
                zip(part.tiles, part.coords.tolist(), strict=True)
            ):
                measures = {name: float(column[row]) for name, column in part.columns.items()}
                yield Tile(image=image.copy(), coords=(x, y), measures=measures)


def encode(
    source: Slide | TileStore | str | Path,
    encoder: Encoder | str = DEFAULT,
    *,
    weights: str = "auto",
    device: str = "auto",
    annotations: str | Path | None = None,
    out: str | Path | None = None,
    **settings: Any,
) -> FeatureBag:
    """Turn the tiles of a slide, or of a tile store, into features.

    Args:
        source: An open slide, a tile store, or the path of either.
        encoder: An encoder, or its name.
        weights, device: As of :func:`load_encoder`, for an encoder by name.
        annotations, **settings: Of a slide, as in :func:`tiles`.
        out: Where the features are written to as well, ``.h5``.

    Returns:
        ``features`` (N, D) float32 and ``coords`` (N, 2) int64 level-0 (x, y), tile by tile, and
        what is known of them.

    Raises:
        SlideError, StoreError: The source cannot be read.
        EncoderError: The encoder is unknown, or its weights cannot be had.
        ConfigError: There is no such setting.
    """
    if isinstance(encoder, str):
        encoder = load_encoder(encoder, weights, device)
    store = _store(source)
    if store is not None:
        if settings or annotations is not None:
            raise ConfigError(
                f"{store.path}: its tiles are cut already; {', '.join(settings) or 'annotations'} "
                "can be asked of a slide only"
            )
        name, found = store.path.stem, _of_store(store, encoder)
    else:
        assert not isinstance(source, TileStore)
        path = source if isinstance(source, str | Path) else source.info.path
        name, found = Path(path).stem, _of_slide(source, encoder, settings, annotations)
    features, coords, attributes = found
    versions = {"wsi_pipeline": __version__}
    told = {"encoder_provenance": encoder.provenance, "versions": versions}
    meta = describe_features(name, encoder.tag, attributes, told)
    if out is not None:
        write_features(Path(out), features, coords, meta)
        return read_features(out)
    known = {key: getattr(meta, key) for key in ("slide_id", "encoder", "tile_px",
             "tile_px_level0", "overlap_px", "mpp", "mpp_level0")}  # fmt: skip
    return FeatureBag(features=features, coords=coords, attributes=dict(meta.provenance) | known)


Found = tuple[NDArray[np.float32], Coords, Mapping[str, Any]]


def _of_store(store: TileStore, encoder: Encoder) -> Found:
    features = _encoded(encoder, store.path.stem, store.tiles.shape[1], store.batches)
    return features, store.coords, store.attributes


def _of_slide(
    slide: Slide | str | Path,
    encoder: Encoder,
    settings: dict[str, Any],
    annotations: str | Path | None,
) -> Found:
    asked = _settings(settings)
    with _cut(slide, asked, _request(annotations)) as cut:

        def read() -> Iterator[RgbTiles]:
            for part in cut.finished_tiles():
                yield part.tiles

        features = _encoded(encoder, cut.slide.info.path, asked.tile_px, read)
        return features, cut.coords, cut.describe() | {"tile_px": asked.tile_px}


@dataclass(frozen=True)
class _Source:
    """Tiles of one slide, for :func:`encode_slides`."""

    slide_id: str
    read: Callable[[], Iterator[RgbTiles]]


def _encoded(
    encoder: Encoder, name: str, tile_px: int, read: Callable[[], Iterator[RgbTiles]]
) -> NDArray[np.float32]:
    for event in encode_slides(encoder, [_Source(name, read)], tile_px):
        if isinstance(event, Encoded):
            if event.error is not None:
                raise event.error
            return event.features
    raise AssertionError("a slide that was given has an end")


def heatmap(
    slide: Slide | str | Path,
    coords: Coords | FeatureBag,
    values: Any,
    *,
    tile_px_level0: float | None = None,
    max_px: int = THUMBNAIL_PX,
) -> RgbImage:
    """Draw a value per tile over a slide.

    Args:
        slide: An open slide, or its path.
        coords: (N, 2) level-0 (x, y) of the tiles, or features, which know them.
        values: (N,) finite numbers.
        tile_px_level0: Side of a tile, level-0 px; features know it.
        max_px: Longest side of the picture.

    Returns:
        (H, W, 3) uint8, with a colour bar below.

    Raises:
        ConfigError: The tiles' size is not known.
        StoreError: There is not one value a tile.
    """
    from wsi_pipeline.reporting import draw_heatmap

    if isinstance(coords, FeatureBag):
        tile_px_level0 = tile_px_level0 or coords.attributes.get("tile_px_level0")
        coords = coords.coords
    if not tile_px_level0:
        raise ConfigError("a heatmap needs tile_px_level0, the tiles' side in level-0 pixels")
    with _opened(slide, TileSettings()) as opened:
        bounds, picture = opened.info.bounds, opened.thumbnail(max_px)
    downsample = max(bounds.width, bounds.height) / max(picture.shape[:2])
    return draw_heatmap(
        picture, coords, values, tile_px_level0, downsample,
        origin=(bounds.x, bounds.y), colour_bar=True,
    )  # fmt: skip


def train(run: str | Path | Run, encoder: str = DEFAULT, **settings: Any) -> Model:
    """Train a tile classifier and slide aggregators on a run folder's features; validate them.

    Args:
        run: The run folder, with features.
        encoder: Whose features.
        **settings: Flags of the verb ``train``: ``external="tma"``, ``epochs=20``, ``name=…``.

    Returns:
        The model, which is in ``open_run(run).models`` too. One that was trained so before is
        returned as it is.

    Raises:
        ConfigError: There is no such setting.
        LearnError: The audit forbids training, or the slides cannot be split or trained on.
    """
    root = _root(run)
    _carry_out("train", {"run": root, "encoder": encoder} | settings)
    name = settings.get("name") or find_features(RunFolder(root).features, encoder).name
    return open_run(root).models[name]


def predict(
    run: str | Path | Run, model: str | Path | Model | None = None, **settings: Any
) -> "pd.DataFrame":
    """Score a run folder's slides with a trained model.

    Args:
        run: The run folder whose features are scored; predictions go there too.
        model: A model, its folder, or the name of one of the run; the only one there if None.
        **settings: Flags of the verb ``predict``: ``heatmaps=False``, ``new_slides=…``.

    Returns:
        A row for each slide and aggregator; the tiles' scores are in
        ``open_run(run).slide_predictions()``.

    Raises:
        ConfigError: No model is named, or none is there; there is no such setting.
        WsiError: Some slides could not be scored. The others are: ``open_run(run).predictions()``.
    """
    from wsi_pipeline.pipeline.predict import find_model
    from wsi_pipeline.verbs.models import PredictConfig

    root = _root(run)
    asked = {"run": root, "model": model.path if isinstance(model, Model) else model} | settings
    _carry_out("predict", asked)
    config = PredictConfig.from_mapping(_plain(asked), "predict")
    return open_run(root).predictions(find_model(config)[1].name)


def _carry_out(verb: str, asked: dict[str, Any]) -> None:
    """Run a verb without a screen.

    Raises:
        WsiError: What the stage raises; or slides failed, which are named.
    """
    chosen = VERBS.choose(verb)
    config = chosen.config_class.from_mapping(_plain(asked), f"{verb}()").for_scheduler()
    stages = carry_out(verb, config, chosen.run(config))
    failed = {slide: error for stage in stages for slide, error in stage.failed.items()}
    if failed:
        slide, error = next(iter(failed.items()))
        raise WsiError(
            f"{verb}: {len(failed)} slides failed ({named(sorted(failed))}), first {slide}: "
            f"{error}. The others are done; open_run has them"
        )


def view(
    shown: Slide | str | Path | Run, *, slides: str | Path | None = None, height: int = 640
) -> "View":
    """Show a slide, or a run with all that ``wsi view`` has, in a cell of a notebook.

    A server on this machine's own address answers it until ``close()`` or the notebook's end.

    Args:
        shown: A slide, its path or URL; a run or its folder.
        slides: Folder that a run's cohort table starts from; None: the table's own.
        height: Of the frame, px.

    Raises:
        SlideError: It is neither.
        ConfigError: The server is not installed.
    """
    try:
        from wsi_pipeline.workbench import show
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed: pip install 'wsi-pipeline[view]'"
        ) from error
    if isinstance(shown, Run):
        return show(shown.path, slides, height)
    return show(shown if isinstance(shown, str | Path) else shown.info.path, slides, height)


def _plain(asked: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if value is not None}


def _root(run: str | Path | Run) -> Path:
    return run.path if isinstance(run, Run) else Path(run)


def _settings(asked: dict[str, Any]) -> TileSettings:
    return TileSettings.from_mapping(asked, "settings of the tiles")


def _request(annotations: str | Path | None) -> SlideRequest:
    return WHOLE_SLIDE if annotations is None else SlideRequest(annotations=Path(annotations))


def _threads() -> int:
    return min(MOST_THREADS, usable_cores())


@contextmanager
def _opened(slide: Slide | str | Path, settings: TileSettings) -> Iterator[Slide]:
    """Yield an open slide as it is; open and close one that is a path."""
    if not isinstance(slide, str | Path):
        yield slide
        return
    with open_slide(
        slide, settings.reader, _threads(), modality=settings.modality, icc=settings.icc
    ) as opened:
        yield opened


@contextmanager
def _cut(
    slide: Slide | str | Path, settings: TileSettings, request: SlideRequest
) -> Iterator[SlideCut]:
    if isinstance(slide, str | Path):
        with open_cut(slide, settings, request, threads=_threads()) as cut:
            yield cut
        return
    if settings.straighten:
        raise ConfigError("straighten=True: give the slide's path, as another slide comes of it")
    yield plan_cut(slide, settings, request, threads=_threads())


def _store(source: Slide | TileStore | str | Path) -> TileStore | None:
    """Return a tile store, opened if it is a path; None of a slide."""
    if isinstance(source, TileStore):
        return source
    suffixes = {kind.suffix for kind in STORE_FORMATS.values()}
    if isinstance(source, str | Path) and Path(source).suffix in suffixes:
        return open_tiles(source)
    return None
