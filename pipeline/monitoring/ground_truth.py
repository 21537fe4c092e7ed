"""Read true labels: SageMaker's ground truth records, or answers from review."""

import json
from typing import Any

from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import TimeWindow
from pipeline.monitoring.analysis import MonitoringError


def read_truth(source: str) -> dict[str, str]:
    """Read true labels by inference id from a file, a folder or ``s3://bucket/prefix``.

    Each line is a JSON object: a ground truth record, whose data is a label or a label's number, or an
    object with ``inference_id`` and ``label``, such as a message of the review queue after correction. A
    later line replaces an earlier one. Raises `CaptureError` if the source cannot be read, and
    `MonitoringError` if it has no lines or a line of another format.
    """
    truth: dict[str, str] = {}
    for path, lines in captures.read_lines(source, TimeWindow()):
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                inference_id, label = _parse(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise MonitoringError(
                    f"{path}:{number} is neither ground truth nor an object with inference_id and label"
                ) from error
            truth[inference_id] = label
    if not truth:
        raise MonitoringError(f"{source} contains no labels")
    return truth


def _parse(line: dict[str, Any]) -> tuple[str, str]:
    if "groundTruthData" in line:
        return str(line["eventMetadata"]["eventId"]), str(line["groundTruthData"]["data"]).strip()
    return str(line["inference_id"]), str(line["label"]).strip()
