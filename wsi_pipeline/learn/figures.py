"""``metrics.json`` read back: what was found of a model when it was made.

What stands in it but is for other readers (confusion by class, curves, digests) is passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.bootstrap import Estimate
from wsi_pipeline.learn.drift import Shift
from wsi_pipeline.learn.paired import Difference
from wsi_pipeline.run_folder import BundleFile
from wsi_pipeline.settings import describe

BY_SCHEDULE: Final = "a fixed schedule"  # how ``epoch_chosen_by`` begins where it was


@dataclass(frozen=True, kw_only=True)
class IntervalAbout:
    """How an evaluation's intervals were made; models from before exact ones have no ``shares``."""

    level: float
    unit: str
    method: str
    resamples: int
    shares: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One model on one part of the slides; ``confusion`` (C, C) is true × predicted."""

    model: str
    split: str
    level: Literal["tile", "slide", "patient"]
    cases: int
    patients: int
    confusion: tuple[tuple[int, ...], ...]
    measures: Mapping[str, Estimate]
    interval: IntervalAbout | None = None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The primary model against another on the same slides."""

    split: str
    second: str
    measures: Mapping[str, Difference]


@dataclass(frozen=True, kw_only=True)
class FeatureShift:
    """Squared maximum mean discrepancy and its permutation p; None with too few patients."""

    mmd2: float | None
    p: float | None


@dataclass(frozen=True, kw_only=True)
class Drifted:
    """From the patients trained on to the external ones: features by class, numbers by name."""

    features: Mapping[str, FeatureShift]
    numbers: Mapping[str, Shift]


@dataclass(frozen=True, kw_only=True)
class SetsHeld:
    """How often a model's sets of classes hold the right one; see ``describe_sets``."""

    model: str
    level: str
    split: str
    asked: float
    calibrated_on: int
    lack: float | None
    patients: int
    coverage: float
    low: float | None
    high: float | None
    size: float
    single: float
    empty: float


@dataclass(frozen=True, kw_only=True)
class FoldFitted:
    """One fold of a cross-validated model, and what chose its epoch; None in one of before."""

    fold: str
    epoch_chosen_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was found of a model."""

    evaluations: tuple[Evaluated, ...]
    classes: tuple[str, ...] = ()
    primary: str = ""
    notes: tuple[str, ...] = ()
    differences: tuple[Compared, ...] = ()
    drift: Drifted | None = None
    sets: tuple[SetsHeld, ...] = ()
    epoch_chosen_by: str | None = None
    folds: tuple[FoldFitted, ...] = ()

    @property
    def scheduled(self) -> tuple[bool, ...]:
        """Whether a schedule fixed beforehand chose the epoch, of the model or each known fold."""
        said = (self.epoch_chosen_by, *(fold.epoch_chosen_by for fold in self.folds))
        return tuple(words.startswith(BY_SCHEDULE) for words in said if words)

    def lack(self, model: str, level: str) -> float | None:
        """Return what a class may lack at ``level`` to be in a set of ``model``.

        None where nothing calibrated it: a model from before sets, or too few validation patients.
        """
        rows = (row.lack for row in self.sets if (row.model, row.level) == (model, level))
        return next(rows, None)


def read_figures(folder: Path) -> Figures:
    """Read ``metrics.json`` of the model in ``folder``.

    Raises:
        LearnError: It is missing or damaged, or something is missing in it.
    """
    path = folder / BundleFile.METRICS
    try:
        return TypeAdapter(Figures).validate_json(path.read_bytes())
    except OSError as error:
        raise LearnError(f"{path}: cannot be read ({error.strerror}); train it again") from error
    except ValidationError as error:
        raise LearnError(f"{describe(error, str(path))}; train it again") from error
