"""The labels that a model's probabilities belong to."""

import re

from functions.filter.decision import OTHER

__all__ = ["LABEL", "OTHER", "split_labels"]

LABEL = re.compile(r"\w[\w .+-]*")
"""A valid label: it also names a folder, is part of a key in S3, and an item of the stack's ClassLabels."""


def split_labels(labels: str) -> tuple[str, ...]:
    """Split comma-separated labels and strip the spaces around them."""
    return tuple(label.strip() for label in labels.split(","))
