"""Open vessels with a wall."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.noise import Shape, scatter, smooth_noise
from wsi_pipeline.synthetic.nuclei import NucleusKind
from wsi_pipeline.synthetic.pattern import (
    CANVAS_MPP,
    Pattern,
    gradient_angle,
    lay,
    place,
    red_cells,
    signed_distance,
    step,
    texture,
    um,
)

ENDOTHELIUM: Final = NucleusKind(
    length_um=8.5, width_um=2.5, variation=0.18, density=1.45, clearing=0.1
)


def vessel(
    rng: np.random.Generator,
    pattern: Pattern,
    lumen: NDArray[np.uint8],
    wall_um: float,
    corner: tuple[int, int] = (0, 0),
) -> Pattern:
    """Lay vessels over a pattern.

    Args:
        rng: Source of randomness.
        pattern: Changed in place.
        lumen: (h, w) mask, 255 inside the vessels.
        wall_um: Thickness of their wall.
        corner: Canvas (x, y) of the mask's top-left corner.
    """
    shape: Shape = (lumen.shape[0], lumen.shape[1])
    distance = signed_distance(lumen)
    inside = step(distance, um(1.0))
    layers = np.float32(0.62) + np.float32(0.07) * texture(rng, shape, 0.5, 1.5)
    eosin = inside * np.float32(0.05) + (1.0 - inside) * layers
    blood = smooth_noise(rng, shape, um(40.0))
    roomy = np.where((distance > um(4.0)) & (blood > 0.5), np.float32(1.0), np.float32(0.0))
    red_cells(rng, eosin, scatter(rng, roomy, um(6.2), 6.0) * np.float32(CANVAS_MPP))
    middle = np.float32(um(wall_um / 2))
    ring = np.where(np.abs(distance + middle) < um(0.8), np.float32(1.0), np.float32(0.0))
    points = scatter(rng, ring, um(14.0), 40.0) * np.float32(CANVAS_MPP)
    angle = gradient_angle(distance, points) + np.float32(np.pi / 2)
    drawn = Pattern(
        eosin=np.asarray(eosin, np.float32),
        haematoxylin=np.asarray(np.float32(0.10) * (1.0 - inside), np.float32),
        nuclei=(place(rng, ENDOTHELIUM, points, angle),),
    )
    return lay(pattern, drawn, step(distance + np.float32(um(wall_um)), um(1.0)), corner)
