"""A fault plan: which requests go wrong, how, and how often. Counted, so that it is repeatable."""

import re
import threading
from typing import Any


class FaultPlan:
    """Rules tried in order; each is a dict with

    ``match``: regular expression on ``METHOD /path``; ``do``: the fault's name; ``skip``: matching
    requests that go well first (0); ``first``: how many then go wrong (None: all); and the fault's
    own parameters.
    """

    def __init__(self, rules: list[dict[str, Any]]) -> None:
        self._rules = rules
        self._counts = [0] * len(rules)
        self._lock = threading.Lock()

    def next(self, method: str, path: str) -> dict[str, Any]:
        """Return the fault of this request, an empty dict if it goes well."""
        with self._lock:
            for at, rule in enumerate(self._rules):
                if not re.search(rule.get("match", ""), f"{method} {path}"):
                    continue
                number = self._counts[at]
                self._counts[at] += 1
                skip, first = rule.get("skip", 0), rule.get("first", 1)
                if number >= skip and (first is None or number < skip + first):
                    return rule
        return {}
