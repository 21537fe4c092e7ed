"""Operate a deployed stack, local or on AWS: review, retry, monitor, erase, load-test and price it."""

from pathlib import Path

OUTCOMES = ("accepted", "needs_review", "rejected")
"""The outcomes in the results table."""
PAGES = Path(__file__).parent / "pages"
"""Templates of the pages that commands of this package write or serve."""
