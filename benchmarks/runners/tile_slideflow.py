"""Slideflow: its cuCIM reader, Otsu's mask and its tile filters, written to TFRecords."""

import os
import time

from bare_forward import allow_any_torchvision
from protocol import report, tile_arguments

os.environ["SF_SLIDE_BACKEND"] = "cucim"  # the faster of its two, also without a GPU
os.environ["SF_BACKEND"] = "torch"
os.environ["SF_LOGGING_LEVEL"] = "30"  # warnings only


def main() -> None:
    given = tile_arguments()
    allow_any_torchvision()
    import slideflow

    begun = time.perf_counter()
    slide = slideflow.WSI(
        str(given.slide), tile_px=given.tile_px, tile_um=round(given.tile_px * given.mpp)
    )
    slide.qc("otsu")
    # the numpy one: on a CPU its torch one takes ten times as long
    normaliser = slideflow.norm.StainNormalizer("macenko") if given.stain else None
    slide.extract_tiles(
        tfrecord_dir=str(given.out),
        report=False,
        normalizer=normaliser,
        num_threads=given.workers,
    )
    seconds = time.perf_counter() - begun
    records = slideflow.TFRecord(str(given.out / f"{given.slide.stem}.tfrecords"))
    report(len(records), seconds=seconds)


if __name__ == "__main__":
    main()
