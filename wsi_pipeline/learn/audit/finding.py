"""What an audit says: findings in plain sentences, and the figures behind them."""

from dataclasses import asdict, dataclass
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
    """All findings, and all figures."""

    findings: tuple[Finding, ...] = ()
    measured: tuple[Measured, ...] = ()

    def __add__(self, other: "Audit") -> "Audit":
        return Audit(
            findings=self.findings + other.findings, measured=self.measured + other.measured
        )

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
