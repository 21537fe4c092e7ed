"""Read what photos really show: ground truth records, or reviewers' answers."""

from __future__ import annotations

import json
from typing import Any

from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import ReadCounts, TimeWindow
from pipeline.monitoring.metrics import MonitoringError


def read_truth(source: str) -> dict[str, str]:
    """Read what photos show, by their inferences' ids.

    A line is a ground truth record of SageMaker's, whose data is a label or its number, or an answer from
    review: an object with ``inference_id`` and ``label``, such as a message of the review queue with the
    label put right. Later lines count more than earlier ones.

    Parameters
    ----------
    source
        A file or folder, or ``s3://bucket/prefix``.

    Raises
    ------
    CaptureError
        It cannot be read.
    MonitoringError
        A line is neither, or there is none.
    """
    truth: dict[str, str] = {}
    for path, lines in captures.read_lines(source, TimeWindow(), ReadCounts()):
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                name, label = _told(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise MonitoringError(
                    f"{path}:{number} is neither ground truth nor an object with inference_id and label"
                ) from error
            truth[name] = label
    if not truth:
        raise MonitoringError(f"{source} holds no labels")
    return truth


def _told(line: dict[str, Any]) -> tuple[str, str]:
    if "groundTruthData" in line:
        return str(line["eventMetadata"]["eventId"]), str(line["groundTruthData"]["data"]).strip()
    return str(line["inference_id"]), str(line["label"]).strip()
