"""The loop of the tutorials: OpenSlide under torch's loader, timm's model and transform."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bare_forward import allow_any_torchvision, forward_seconds
from plain_slide import PlainSlide
from protocol import extract_arguments, report
from torch.utils.data import DataLoader, Dataset


class _Tiles(Dataset):
    """Tissue tiles of a slide, read when asked for; each worker opens the slide itself."""

    def __init__(self, path: Path, mpp: float, tile_px: int, transform: Callable) -> None:
        self._open = lambda: PlainSlide(path, mpp, tile_px)
        self._slide: PlainSlide | None = None
        self._transform = transform
        self.coords = self._open().coords

    def __len__(self) -> int:
        return len(self.coords)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._slide is None:
            self._slide = self._open()
        return self._transform(self._slide.tile(*self.coords[index]))


def main() -> None:
    given = extract_arguments()
    allow_any_torchvision()
    import timm

    model = timm.create_model(given.encoder, pretrained=False, num_classes=0).eval()
    config = timm.data.resolve_model_data_config(model)
    begun = time.perf_counter()
    transform = timm.data.create_transform(**config, is_training=False)
    tiles = _Tiles(given.slide, given.mpp, given.tile_px, transform)
    with torch.inference_mode():
        loader = DataLoader(tiles, batch_size=given.batch_size, num_workers=1)
        features = torch.cat([model(batch) for batch in loader])
    np.savez(given.out / "features.npz", features=features.numpy(), coords=tiles.coords)
    seconds = time.perf_counter() - begun
    bare = forward_seconds(model, len(tiles), config["input_size"][-1], given.batch_size)
    report(len(tiles), seconds=seconds, forward_seconds=bare)


if __name__ == "__main__":
    main()
