"""Is this pair of stain vectors haematoxylin and eosin?"""

from dataclasses import dataclass

from wsi_pipeline.stain.percentiles import upper_percentiles
from wsi_pipeline.stain.stains import REFERENCE, Matrix, angle_deg

NOT_HE = "not_he"

MAX_H_ANGLE_DEG = 22.0
MAX_E_ANGLE_DEG = 28.0
MAX_E_BLUE_TO_GREEN = 1.0
MAX_E_RED_TO_GREEN = 0.60
MAGENTA_E_RED_TO_GREEN = 0.5
MAGENTA_E_RED_DENSITY = 0.3
VIOLET_E_RED_TO_GREEN = 0.42
VIOLET_E_RED_DENSITY = 0.42


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``flags`` is empty when the stains pass for H&E."""

    flags: tuple[str, ...]
    diagnostics: dict[str, float]


def judge_he(matrix: Matrix, concentrations: Matrix) -> Verdict:
    """Judge fitted stains by what is known of the two dyes.

    * Haematoxylin and eosin lie within a cone around the published reference vectors. The cones are
      wide (22 and 28 degrees): scanners and white balance alone account for up to 14 and 24.
    * Eosin absorbs green most and blue less. A second stain that absorbs more blue than green is
      brown or yellow (DAB of immunohistochemistry, van Gieson, trichromes).
    * Eosin is all but transparent to red. A second stain with nearly as much red as green is grey
      or blue. One that is violet (red / green above 0.42) *and* so dense that it holds back red
      light (red density above 0.42 at the 90th percentile of its concentration) is no eosin: PAS
      over haematoxylin looks like that. PAS after diastase is paler (red / green 0.62 was seen):
      above 0.60 it is refused however pale, above 0.5 from a red density of 0.3. Colour and density
      go together because a tinted background alone makes a pale eosin violet, and a thick section
      alone makes it dense.

    Measured (random 256 px tiles from tissue; red, green, blue are of the second vector):

    ==================================  =====  =====  =======  =======  =============
    slide                               H deg  E deg  red/gr.  blue/gr  red dens. p90
    ==================================  =====  =====  =======  =======  =============
    CMU-1-Small-Region.svs               13.0   12.0     0.19     0.42           0.26
    TCGA-CR-7395-01A-01-TS1.svs          13.5    8.1     0.17     0.53           0.17
    liver_glycogen_HE.tif                 0.9   11.8     0.28     0.42           0.21
    PDAC-tru-cut_HE3.svs                  1.3    5.1     0.39     0.72           0.15
    source.png                           13.8   22.8     0.34     0.21           0.28
    target.png (grey-blue background)    14.0   24.4     0.58     0.28           0.26
    liver_tiles, tumour and normal        4.8   12.0     0.28     0.42           0.20
    liver_glycogen_PAS.tif                1.5   20.0     0.48     0.33           0.68
    TMA overviews (IHC, brown), 4      2.4-6.5  19-22     0.85     1.06+
    ==================================  =====  =====  =======  =======  =============

    Colour alone cannot tell a pale, purely magenta PAS from eosin: their published vectors are
    nearly the same.

    Args:
        matrix: (2, 3) unit rows H, E.
        concentrations: (2, P) of tissue pixels under that matrix.
    """
    haematoxylin, eosin = matrix
    green = max(float(eosin[1]), 1e-6)
    (_, h_p99), (e_p90, e_p99) = (upper_percentiles(row, [90, 99]) for row in concentrations)
    numbers = {
        "h_angle_deg": angle_deg(haematoxylin, REFERENCE.matrix[0]),
        "e_angle_deg": angle_deg(eosin, REFERENCE.matrix[1]),
        "e_red_to_green": float(eosin[0]) / green,
        "e_blue_to_green": float(eosin[2]) / green,
        "e_red_density_p90": float(eosin[0]) * e_p90,
        "h_concentration_p99": h_p99,
        "e_concentration_p99": e_p99,
    }
    violet = (
        numbers["e_red_to_green"] > VIOLET_E_RED_TO_GREEN
        and numbers["e_red_density_p90"] > VIOLET_E_RED_DENSITY
    )
    magenta = (
        numbers["e_red_to_green"] > MAGENTA_E_RED_TO_GREEN
        and numbers["e_red_density_p90"] > MAGENTA_E_RED_DENSITY
    )
    refused = (
        violet
        or magenta
        or numbers["h_angle_deg"] > MAX_H_ANGLE_DEG
        or numbers["e_angle_deg"] > MAX_E_ANGLE_DEG
        or numbers["e_red_to_green"] > MAX_E_RED_TO_GREEN
        or numbers["e_blue_to_green"] > MAX_E_BLUE_TO_GREEN
        or min(h_p99, e_p99) <= 0
    )
    return Verdict(flags=(NOT_HE,) if refused else (), diagnostics=numbers)
