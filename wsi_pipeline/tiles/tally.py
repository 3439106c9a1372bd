"""What a slide's tiles came to, and where the time went."""

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Tally:
    """Running counts of tiles by fate and flag, and seconds by phase."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def spend(self, phase: str, seconds: float) -> None:
        """Add to a phase's time."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def clock(self, phase: str) -> "_Clock":
        """Return a context that adds the time of its block to ``phase``."""
        return _Clock(self, phase)


class _Clock:
    def __init__(self, tally: Tally, phase: str) -> None:
        self._tally = tally
        self._phase = phase

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._tally.spend(self._phase, time.perf_counter() - self._start)
