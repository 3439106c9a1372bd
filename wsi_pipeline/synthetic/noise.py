"""Random fields and point sets that the tissue patterns are drawn with.

Fields are float32 arrays on a pixel grid; lengths are in pixels of that grid.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import KDTree

Field = NDArray[np.float32]
Points = NDArray[np.float32]  # (N, 2) as (x, y)
Shape = tuple[int, int]  # (height, width)

_DIRECTIONS = 24


def smooth_noise(rng: np.random.Generator, shape: Shape, scale: float) -> Field:
    """Gaussian noise of zero mean and unit variance whose blobs are about ``scale`` pixels wide."""
    height, width = shape
    step = max(scale / 2.0, 1.0)
    small = (int(np.ceil(height / step)) + 4, int(np.ceil(width / step)) + 4)
    field = rng.standard_normal(small, dtype=np.float32)
    # The variance left after a blur of sigma s on white noise is 1 / (4 pi s^2).
    sigma = max(scale / (2.0 * step), 0.5)
    field = cv2.GaussianBlur(field, (0, 0), sigma) * np.float32(2.0 * np.sqrt(np.pi) * sigma)
    inner = field[1:-1, 1:-1]
    large = (int(np.ceil(inner.shape[0] * step)), int(np.ceil(inner.shape[1] * step)))
    return np.ascontiguousarray(enlarge(inner, large)[:height, :width])


def grain(rng: np.random.Generator, side: int, fine: float, coarse: float) -> Field:
    """A (side, side) texture that repeats seamlessly, unit variance, between two blur widths."""
    white = rng.standard_normal((side, side), dtype=np.float32)
    border = min(int(4 * coarse) + 1, side)
    wrapped = cv2.copyMakeBorder(white, border, border, border, border, cv2.BORDER_WRAP)
    band = cv2.GaussianBlur(wrapped, (0, 0), fine) - cv2.GaussianBlur(wrapped, (0, 0), coarse)
    inner = band[border:-border, border:-border]
    return np.asarray(inner / inner.std(), np.float32)


def repeat(texture: Field, shape: Shape, offset: tuple[int, int] = (0, 0)) -> Field:
    """Cover ``shape`` with a seamless texture, shifted by ``offset`` pixels."""
    rolled = np.roll(texture, offset, axis=(0, 1))
    down = -(-shape[0] // rolled.shape[0])
    across = -(-shape[1] // rolled.shape[1])
    return np.ascontiguousarray(np.tile(rolled, (down, across))[: shape[0], : shape[1]])


def bands(
    rng: np.random.Generator, direction: Field, wavelength: float, spread: float = 0.22
) -> tuple[Field, Field]:
    """Branching bands that follow a field of directions.

    White noise is filtered by Gabor kernels, one for each of a few directions, and every pixel
    takes the answer of its own direction.

    Args:
        rng: Source of randomness.
        direction: (H, W) radians, across the bands (the wave vector).
        wavelength: Distance from one band to the next.
        spread: Width of the kernels in the Fourier domain, relative to the wave number; more is
            less regular.

    Returns:
        ``phase`` (H, W) in [-pi, pi], 0 in the middle of a band and ±pi between two, and
        ``amplitude`` (H, W), 1 on average, near 0 where bands branch.

    Source: Tricard et al., Procedural Phasor Noise, ACM TOG 2019 (the idea of using the phase).
    """
    height, width = direction.shape
    size = (fft.next_fast_len(height), fft.next_fast_len(width))
    spectrum = fft.fft2(rng.standard_normal(size, dtype=np.float32))
    fy = fft.fftfreq(size[0]).astype(np.float32)[:, None]
    fx = fft.fftfreq(size[1]).astype(np.float32)[None, :]
    number = 1.0 / wavelength
    step = 2.0 * np.pi / _DIRECTIONS
    place = np.mod(direction / np.float32(step), _DIRECTIONS)
    answer = np.zeros((height, width), np.complex64)
    for k in range(_DIRECTIONS // 2):
        x, y = number * math.cos(k * step), number * math.sin(k * step)
        distance = (fx - x) ** 2 + (fy - y) ** 2
        kernel = np.exp(-distance / np.float32(2.0 * (spread * number) ** 2))
        one = fft.ifft2(spectrum * kernel, overwrite_x=True)[:height, :width]
        # The opposite direction of real noise is the complex conjugate: no second transform.
        answer += _tent(place, k) * one + _tent(place, k + _DIRECTIONS // 2) * np.conj(one)
    amplitude = np.abs(answer)
    phase = np.angle(answer).astype(np.float32)
    return phase, (amplitude / amplitude.mean()).astype(np.float32)


def _tent(place: Field, k: int) -> Field:
    away = np.abs(place - np.float32(k))
    away = np.minimum(away, np.float32(_DIRECTIONS) - away)
    weight: Field = np.maximum(np.float32(1.0) - away, np.float32(0.0))
    return weight


def enlarge(field: Field, shape: Shape) -> Field:
    """Cubic interpolation of a coarse field to ``shape``."""
    height, width = shape
    large = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, np.float32)


def scatter(rng: np.random.Generator, weight: Field, spacing: float, tries: float = 5.0) -> Points:
    """Points at least ``spacing`` apart, drawn where ``weight`` is positive, dense places first.

    Args:
        rng: Source of randomness.
        weight: (H, W); a point is possible where it is > 0, and higher weights win.
        spacing: Smallest distance between two points, in pixels.
        tries: Candidates per square of ``spacing``; thin shapes need more.

    Returns:
        (N, 2) float32 (x, y) in pixels.
    """
    height, width = weight.shape
    count = int(np.ceil(tries * height * width / spacing**2))
    points = rng.random((count, 2), dtype=np.float32) * np.array([width, height], np.float32)
    points = np.minimum(points, np.array([width, height], np.float32) - np.float32(0.01))
    chance = rng.random(count, dtype=np.float32)
    wanted = weight[points[:, 1].astype(np.int64), points[:, 0].astype(np.int64)]
    possible = wanted > 0
    points = points[possible]
    order = np.argsort(-(wanted[possible] + chance[possible]), kind="stable")
    points = points[order]
    return np.asarray(points[_keep_apart(points, spacing)], np.float32)


def _keep_apart(points: Points, spacing: float) -> NDArray[np.bool_]:
    """Greedy choice in the order given: a point falls to any earlier chosen point too near."""
    chosen = np.zeros(len(points), bool)
    if len(points) == 0:
        return chosen
    pairs = KDTree(points).query_pairs(spacing, output_type="ndarray")
    open_ = np.ones(len(points), bool)
    while True:
        # A point is decided once no earlier open neighbour is left to take its place.
        waits = np.zeros(len(points), bool)
        waits[pairs[:, 1]] = True
        ready = open_ & ~waits
        if not ready.any():
            return chosen
        chosen |= ready
        open_ &= ~ready
        open_[pairs[ready[pairs[:, 0]], 1]] = False
        pairs = pairs[open_[pairs[:, 0]] & open_[pairs[:, 1]]]
