"""What an audit says: findings in plain sentences, and the figures behind them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

SCHEMA_VERSION: Final = 1

Kind = Literal[
    "patient_overlap", "few_patients", "same_slide", "similar_slide", "similar_tiles", "nuisance"
]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found.

    Attributes:
        kind: Which check found it.
        text: What was found, naming slides or patients, in one sentence without a full stop.
        remedy: What to do about it.
        blocking: It must be put right, or accepted with a reason.
        acceptable: No reason helps where it is False: nothing can be split or judged that way.
        slides, patients: All that are concerned, those too that ``text`` does not name.
    """

    kind: Kind
    text: str
    remedy: str
    blocking: bool
    acceptable: bool = True
    slides: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Return finding and remedy."""
        return f"{self.text}; {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure that a check came to, whether or not it led to a finding.

    ``low`` and ``high`` are the ends of a 95 % interval over patients, None where there is none;
    beyond ``threshold`` the figure is a finding.
    """

    check: str
    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    threshold: float
    cases: int


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All findings, all figures, and the pictures of slides that are in groups."""

    findings: tuple[Finding, ...] = ()
    measured: tuple[Measured, ...] = ()
    pictures: Mapping[str, Path] = field(default_factory=dict)

    def __add__(self, other: "Audit") -> "Audit":
        return Audit(
            findings=self.findings + other.findings,
            measured=self.measured + other.measured,
            pictures={**self.pictures, **other.pictures},
        )

    def groups(self) -> list[tuple[str, ...]]:
        """Return the slides that must be kept together: the same one, copies, shared tissue."""
        kinds = ("same_slide", "similar_slide", "similar_tiles")
        shared = [f.slides for f in self.findings if f.kind in kinds and f.blocking]
        names = sorted({name for slides in shared for name in slides})
        at = {name: index for index, name in enumerate(names)}
        pairs = [(at[slides[0]], at[other]) for slides in shared for other in slides[1:]]
        return [tuple(names[index] for index in members) for members in connected(pairs)]

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """The findings that stop training."""
        return tuple(finding for finding in self.findings if finding.blocking)

    @property
    def passed(self) -> bool:
        return not self.blocking

    def unaccepted(self, reason: str | None) -> tuple[Finding, ...]:
        """Return what still stops training when risks are accepted for ``reason``."""
        return tuple(
            finding for finding in self.blocking if reason is None or not finding.acceptable
        )

    def to_json(self, accepted: str | None = None, **about: Any) -> dict[str, Any]:
        """Return ``audit.json``; ``about`` says what was audited."""
        return {
            "schema_version": SCHEMA_VERSION,
            **about,
            "passed": self.passed,
            "accepted_risk": accepted if self.blocking else None,
            "findings": [asdict(finding) for finding in self.findings],
            "measured": [asdict(figure) for figure in self.measured],
        }


def connected(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return what pairs connect: groups of two and more, each and all of them in order."""
    head: dict[int, int] = {}

    def top(index: int) -> int:
        while head.setdefault(index, index) != index:
            index = head[index]
        return index

    for pair in pairs:
        low, high = sorted(map(top, pair))
        head[high] = low
    groups = defaultdict(list)
    for index in sorted(head):
        groups[top(index)].append(index)
    return [members for members in groups.values() if len(members) > 1]
