"""Temperature scaling: one number, fitted on validation slides, that tempers confidence.

A handful of slides says little about it, and folds whose temperatures are far apart are not
comparable with each other: the temperature stays near one unless slides say otherwise.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

FLOOR: Final = 1e-7  # least probability whose logarithm is taken
COLDEST: Final = 0.5  # a few slides, all right, would ask for no doubt at all
HOTTEST: Final = 10.0
PRIOR: Final = 0.25  # standard deviation of its logarithm, before any slide is seen


def fit_temperature(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Return the temperature in [0.5, 10] that is likeliest: log-normal around one, by log loss.

    Args:
        probabilities: (n, C) of the validation slides; a bag's softmax or a mean over tiles.
        targets: (n,) class indices.

    Returns:
        Above one when the model is overconfident; one when there are no slides.
    """
    if not len(targets):
        return 1.0

    def unlikely(log_temperature: float) -> float:
        tempered = apply_temperature(probabilities, float(np.exp(log_temperature)))
        loss = -np.log(tempered[np.arange(len(targets)), targets].clip(FLOOR)).sum()
        return float(loss + (log_temperature / PRIOR) ** 2 / 2)

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    return float(np.exp(minimize_scalar(unlikely, bounds=bounds, method="bounded").x))


def apply_temperature(
    probabilities: NDArray[np.float64], temperature: float
) -> NDArray[np.float64]:
    """Return softmax(log p / T), (n, C); the predicted class does not change."""
    logits = np.log(probabilities.clip(FLOOR)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    tempered: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return tempered
