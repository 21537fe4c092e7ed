"""Operate a deployed stack, local or on AWS: review, retry, monitor, erase, load-test and price it."""

import os
from pathlib import Path

HOME = Path(os.environ.get("SCONES_HOME") or Path(__file__).parents[1] / ".local").absolute()
"""Where the local stack and `make train` write their files; `SCONES_HOME` names another folder."""
OUTCOMES = ("accepted", "needs_review", "rejected")
"""The outcomes in the results table."""
PAGES = Path(__file__).parent / "pages"
"""Templates of the pages that commands of this package write or serve."""
