"""The external cohort: sealed while models are made, opened once when they are frozen."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import LearnError
from wsi_pipeline.inventory import note_there
from wsi_pipeline.learn.splits import Splits, SplitSlide, labelled

if TYPE_CHECKING:
    from torch import Tensor, nn


class SealedCohort:
    """Slides that nothing may look at yet; only how many there are can be asked."""

    def __init__(self, name: str, slides: Iterable[SplitSlide]) -> None:
        self.name = name
        self._slides = tuple(replace(slide, split="external") for slide in slides)
        self._opened = False

    def __len__(self) -> int:
        return len(self._slides)

    def open(self, frozen: "FrozenModels") -> Splits:
        """Hand out the slides, once, against frozen models.

        Raises:
            LearnError: They were handed out before, or the models changed since they were frozen.
        """
        frozen.check()
        if self._opened:
            raise LearnError(
                f"the external cohort {self.name!r} was opened before; it is read once"
            )
        self._opened = True
        return self._slides


@dataclass(frozen=True, kw_only=True)
class Opening:
    """One time that an external cohort was opened.

    Attributes:
        cohort, slides: Which, and how many slides were handed out.
        model, weights: For which model, and the digest of its weights as they were frozen.
        who, when: Account and computer; UTC, ISO 8601.
        metrics: Names of what was then computed.
    """

    cohort: str
    slides: int
    model: str
    weights: str
    who: str
    when: str
    metrics: tuple[str, ...]


def record_opening(path: Path, opening: Opening) -> None:
    """Add a line to the ledger; what stands there is never changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(opening), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    note_there(path, "grows")


def read_openings(path: Path) -> tuple[Opening, ...]:
    """Return all openings of a run folder, the first one first; none where there is no ledger.

    Raises:
        LearnError: A line is not one of ours.
    """
    if not path.exists():
        return ()
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            values = json.loads(line)
            found.append(Opening(**values | {"metrics": tuple(values["metrics"])}))
        except (ValueError, TypeError, KeyError):
            raise LearnError(
                f"{path}, line {number}: not an opening of an external cohort"
            ) from None
    return tuple(found)


class FrozenModels:
    """Models whose weights will not change any more, with the digest that shows it."""

    def __init__(self, models: "Mapping[str, nn.Module]") -> None:
        self.models = dict(models)
        for model in self.models.values():
            model.eval().requires_grad_(False)
        self.digest = weights_digest(self.models)

    def check(self) -> None:
        """Refuse models that were changed after they were frozen.

        Raises:
            LearnError: The weights differ from those frozen.
        """
        if weights_digest(self.models) != self.digest:
            raise LearnError("the models were changed after they were frozen; train them anew")


def seal_external(
    slides: Iterable[SplitSlide], name: str | None
) -> tuple[Splits, SealedCohort | None]:
    """Set apart the slides of cohort ``name``, and those whose split is ``external``.

    Returns:
        The internal slides, and the sealed external ones (None if there are none).

    Raises:
        LearnError: No slide is of cohort ``name``, or a patient is on both sides.
    """
    slides = tuple(slides)
    outside = tuple(slide for slide in slides if is_external(slide, name))
    if name is not None and not any(slide.cohort == name for slide in outside):
        found = sorted({slide.cohort for slide in slides if slide.cohort})
        raise LearnError(
            f"no labelled slide is of the external cohort {name!r}; the cohort column has "
            f"{', '.join(found) or 'nothing'}"
        )
    inside = tuple(slide for slide in slides if not is_external(slide, name))
    shared = sorted({s.patient_id for s in inside} & {s.patient_id for s in outside})
    if shared:
        raise LearnError(
            f"{', '.join(shared)}: in the external cohort and among the training slides; "
            "a patient must be on one side"
        )
    return inside, SealedCohort(name or "external", outside) if outside else None


def external_ids(cohort: Iterable[CohortSlide], name: str | None) -> list[str]:
    """Return the labelled slides that :func:`seal_external` would set apart."""
    return [slide.slide_id for slide in labelled(cohort) if is_external(slide, name)]


def is_external(slide: SplitSlide, name: str | None) -> bool:
    """Say whether a slide is of cohort ``name``, or its split is ``external``."""
    return slide.cohort == name or slide.split == "external"


def weights_digest(models: "Mapping[str, nn.Module]") -> str:
    """Return the digest of every parameter and buffer, names included."""
    return tensors_digest({name: model.state_dict() for name, model in models.items()})


def tensors_digest(of_models: "Mapping[str, Mapping[str, Tensor]]") -> str:
    """Return the digest of models' tensors by name, as :func:`weights_digest` does."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(of_models):
        for key, value in sorted(of_models[name].items()):
            digest.update(f"{name}.{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
