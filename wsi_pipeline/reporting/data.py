"""What a report shows, as plain data; everything is optional, so that tiling alone gives one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.learn import PROMISED

if TYPE_CHECKING:  # whoever shows no readers waits for no statistics
    from wsi_pipeline.learn import ReaderResult

HOUR_S: Final = 3600.0

Level = Literal["tile", "slide", "patient"]
NONE_OF_THESE: Final = "none of these"  # an empty set of classes
Mime = Literal["image/webp", "image/png", "image/svg+xml"]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An encoded image and the words that replace it; ``width`` × ``height`` are pixels."""

    data: bytes
    mime: Mime
    alt: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """How many slides or tiles reached a step; ``lost`` says how many went away here, and why."""

    name: str
    count: int
    lost: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """From what was asked for to what was kept, first for slides, then for their tiles."""

    slides: tuple[FunnelStep, ...] = ()
    tiles: tuple[FunnelStep, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says of one slide.

    Attributes:
        bundle: The trained model's name.
        model: Which of its heads or aggregators.
        probabilities: By class, in the model's order.
        truth: The slide's class as the model's task has it.
        split: On which side of the training it was.
        classes: The set that holds the right class as often as was asked; None where nothing
            calibrated it. An empty one says none of these.
        unlike: The slide is unlike those trained on, and the probabilities mean little.
    """

    model: str
    probabilities: Mapping[str, float]
    bundle: str = ""
    truth: str | None = None
    split: str | None = None
    classes: tuple[str, ...] | None = None
    unlike: bool = False

    @property
    def label(self) -> str:
        return max(self.probabilities, key=lambda name: self.probabilities[name])

    @property
    def wrong(self) -> bool:
        return self.truth not in (None, self.label)

    @property
    def set_words(self) -> str:
        """The set as it is read; empty where there is none."""
        if self.classes is None:
            return ""
        return " or ".join(self.classes) or NONE_OF_THESE


@dataclass(frozen=True, kw_only=True)
class SlideCard:
    """One slide (or TMA core): a row of the index and, where it is ``shown``, of the gallery.

    ``predictions`` are of each model's primary one: trained here, or used here.
    """

    slide_id: str
    patient_id: str | None = None
    label: str | None = None
    cohort: str | None = None
    split: str | None = None
    tiles_kept: int | None = None
    tiles_candidate: int | None = None
    mpp: float | None = None
    flags: tuple[str, ...] = ()
    overlay: Picture | None = None
    heatmaps: tuple["Heatmap", ...] = ()
    predictions: tuple[Prediction, ...] = ()
    shown: bool = True


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A slide coloured by a value per tile; ``what`` says which value, ``low`` and ``high`` are the
    ends of the scale."""

    picture: Picture
    what: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class TilePair:
    """A tile as scanned and as normalised.

    Attributes:
        slide_id: Its slide.
        after: As stored.
        before: As scanned; None where the slide is not at hand.
        reason: Its flags' measures and limits; empty if it has none.
    """

    slide_id: str
    after: Picture
    before: Picture | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A value with its interval; None where undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Cases behind an evaluation.

    Attributes:
        targets: (n,) int64 class indices.
        probabilities: (n, C) float64.
    """

    targets: NDArray[np.int64]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """How right one model is on one split at one level.

    Attributes:
        model: Name of the head or aggregator.
        split: ``train``, ``val``, ``test`` or ``external``.
        level: What is a case.
        classes: Names of the C classes.
        cases, patients: How many there are.
        confusion: (C, C) int64, true × predicted.
        measures: By the names of ``learn.metrics.measure``; ``auroc/hcc`` is a class's own.
        scores: The cases themselves where they are few enough to be kept.
        interval: How the intervals were made, in words.
    """

    model: str
    split: str
    level: Level
    classes: tuple[str, ...]
    cases: int
    patients: int
    confusion: NDArray[np.int64]
    measures: Mapping[str, Measure]
    scores: Scores | None = None
    interval: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainingCurve:
    """One model's epochs; all tuples have one entry an epoch, ``best`` counts from 1."""

    model: str
    train_loss: tuple[float, ...]
    val_loss: tuple[float, ...]
    val_balanced_accuracy: tuple[float, ...] = ()
    best: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModelDifference:
    """A measure of the primary model less that of another, on the same slides.

    ``p`` is that of a permutation test, two-sided; None where the interval is.
    """

    split: str
    other: str
    measure: str
    difference: Measure
    p: float | None


@dataclass(frozen=True, kw_only=True)
class Drift:
    """From the patients trained on to the external ones.

    Attributes:
        features: Class (or ``all``) → squared maximum mean discrepancy and its permutation p.
        numbers: Name → mean inside, mean outside, difference in pooled standard deviations.
    """

    features: Mapping[str, tuple[float | None, float | None]]
    numbers: Mapping[str, tuple[float, float, float | None]]


@dataclass(frozen=True, kw_only=True)
class SetsRow:
    """How often the primary model's sets of classes hold the right one, on one part at one level.

    Attributes:
        level, split: Of the cases.
        asked: Coverage that was asked.
        covered: What it is, over ``patients``.
        size: Classes in a set, on average; ``single`` and ``empty`` are shares of cases.
        calibrated_on: Validation patients that set the limit.
        calibrated: They were enough; else every class is in every set.
    """

    level: str
    split: str
    asked: float
    covered: Measure
    patients: int
    size: float
    single: float
    empty: float
    calibrated_on: int
    calibrated: bool


@dataclass(frozen=True, kw_only=True)
class PartCount:
    """How many are in a part of the split; ``classes`` are patients (of slides) of each class."""

    split: str
    slides: int
    patients: int
    classes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """What a bundle's own files say of how it was made; empty where they say nothing.

    Attributes:
        settings: Of the training.
        features, tiling: How tiles and features were made.
        heads: Each model of the bundle, and how it is built.
        versions: Of packages.
        weights: Their digest.
        scheduled: Whether a fixed schedule chose the epoch, of the model or of each fold.
        novelty_limit: Beyond it a slide is marked unlike the training patients.
        parts: Who was where.
        apart: Whether no patient is in two parts.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Any] = field(default_factory=dict)
    tiling: Mapping[str, Any] = field(default_factory=dict)
    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    weights: str = ""
    scheduled: tuple[bool, ...] = ()
    novelty_limit: float | None = None
    parts: tuple[PartCount, ...] = ()
    apart: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """One trained bundle: its evaluations, curves and what must be said about it.

    ``task`` says what it tells apart where that is not the table's labels as they stand.
    """

    name: str
    encoder: str
    primary: str
    classes: tuple[str, ...]
    evaluations: tuple[Evaluation, ...] = ()
    curves: tuple[TrainingCurve, ...] = ()
    notes: tuple[str, ...] = ()
    random_weights: bool = False
    differences: tuple[ModelDifference, ...] = ()
    drift: Drift | None = None
    sets: tuple[SetsRow, ...] = ()
    task: str = ""
    record: ModelRecord = field(default_factory=ModelRecord)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A slide that was lost, at which stage, and why: ``failed``, or ``skipped`` as unusable."""

    slide_id: str
    stage: str
    reason: str
    fate: Literal["failed", "skipped"] = "failed"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What is stated: wages and the machine's price, an hour each, and the gain that was promised.

    ``machine_s`` is the time a slide takes in each stage, as the journal measured it.
    """

    wage_per_hour: float | None = None
    machine_per_hour: float | None = None
    promised: float = PROMISED
    machine_s: Mapping[str, float] | None = None

    def of_case(self, seconds: float, *, with_model: bool) -> float | None:
        """Return what a case costs; None where no wage is stated.

        The machine counts where its price is stated and its time was measured.
        """
        if self.wage_per_hour is None:
            return None
        cost = seconds * self.wage_per_hour / HOUR_S
        if with_model and self.machine_per_hour is not None and self.machine_s:
            cost += sum(self.machine_s.values()) * self.machine_per_hour / HOUR_S
        return cost


@dataclass(frozen=True, kw_only=True)
class ReadPart:
    """Readers beside one trained model on one part of the slides that it was not trained on."""

    bundle: str
    split: str
    results: "tuple[ReaderResult, ...]"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A titled table of names and values: settings, versions, digests."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All of a report.

    Attributes:
        title: Name of the cohort or study.
        created: When, as it shall be printed; None leaves it out, for reproducible pages.
        synthetic: The slides were generated; the page says so loudly.
        random_weights: The encoder was untrained; the page says so loudly.
        notes: Caveats to print below the title, such as the split audit's.
        readers: Readers beside each model, and with its help; ``costs`` are what is stated of them.
        openings: Each time an external cohort was opened: when, cohort, slides, model, metrics.
        alike: What all tile stores say alike, as ``stain.method`` → ``macenko``.
    """

    title: str
    created: str | None = None
    synthetic: bool = False
    random_weights: bool = False
    notes: tuple[str, ...] = ()
    funnel: Funnel = field(default_factory=Funnel)
    slides: tuple[SlideCard, ...] = ()
    tiles: tuple[TilePair, ...] = ()
    stain_method: str | None = None
    models: tuple[ModelReport, ...] = ()
    openings: tuple[tuple[str, ...], ...] = ()
    readers: tuple[ReadPart, ...] = ()
    costs: Costs = field(default_factory=Costs)
    failures: tuple[Failure, ...] = ()
    provenance: tuple[Facts, ...] = ()
    alike: Mapping[str, str] = field(default_factory=dict)
