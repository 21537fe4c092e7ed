"""Labels: what a model's probabilities are of."""

import re

from functions.filter.decision import OTHER

__all__ = ["LABEL", "OTHER", "split_labels"]

LABEL = re.compile(r"\w[\w .+-]*")
"""A label also names a folder, part of a key in S3, and an item of the stack's ClassLabels."""


def split_labels(labels: str) -> tuple[str, ...]:
    """Return labels that are separated by commas, without the spaces around them."""
    return tuple(label.strip() for label in labels.split(","))
