"""Weights under which every class counts the same, and within it every patient."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.learn.splits import SplitSlide


def balanced_weights(slides: Sequence[SplitSlide]) -> NDArray[np.float64]:
    """Return one weight a slide, (n,) float64, that sum to one.

    Each class has the same sum; a class's sum is shared evenly by its patients, a patient's by its
    slides of that class.
    """
    pairs = [(slide.label, slide.patient_id) for slide in slides]
    classes = {label for label, _ in pairs}
    patients = {label: sum(pair[0] == label for pair in set(pairs)) for label in classes}
    counts = {pair: pairs.count(pair) for pair in set(pairs)}
    return np.array(
        [1 / (len(classes) * patients[pair[0]] * counts[pair]) for pair in pairs], dtype=np.float64
    )
