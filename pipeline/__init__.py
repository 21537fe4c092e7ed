"""Operate a deployed stack, local or on AWS: review, retry, monitor, erase, load-test and price it."""

from pathlib import Path

PAGES = Path(__file__).parent / "pages"
"""Templates of the pages that commands of this package write or serve."""
