"""Whole-slide images of liver tumours: from slides to a validated model and a report."""

from typing import Final

__version__: Final = "0.1.0"
