"""What a slide's tiles came to, and where the time went."""

from collections import Counter
from dataclasses import dataclass, field

from wsi_pipeline.timing import Stopwatch


@dataclass(kw_only=True)
class Tally:
    """Running counts of tiles by fate and flag, and the time by phase."""

    counts: Counter[str] = field(default_factory=Counter)
    watch: Stopwatch = field(default_factory=Stopwatch)
