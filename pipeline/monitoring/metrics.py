"""The content of metrics.json."""

import dataclasses
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from functions.monitor.capture_analysis.intervals import Interval
from pipeline.monitoring.analysis import MonitoringReport


def metrics(report: MonitoringReport) -> dict[str, Any]:
    """Return everything but the photos as JSON values."""
    window, counts = report.window, report.counts
    values = {
        "source": report.source,
        "from": report.start,
        "to": report.end,
        "files": counts.files,
        "records_read": counts.read,
        "records": counts.records,
        "duplicates": counts.duplicates,
        "broken": counts.broken,
        "skipped": counts.skipped,
        "without": dict(window.unusable),
        "answers": len(window.confidence),
        "model": report.model,
        "labels": list(window.labels),
        "threshold": window.threshold,
        "mean_confidence": float(np.mean(window.confidence)) if len(window.confidence) else None,
        "class_mix": window.by_label(),
        "under_threshold": report.under_threshold,
        "other": report.others,
        "accepted": report.accepted,
        "estimated_accuracy": report.estimated_accuracy,
        "labelled": report.labelled,
        "photos_sampled": len(report.sample.answers),
        "photos_seen_by_the_model": report.photos_embedded,
        "features": _features(report),
        "drifted": report.drifted,
        "since": report.since,
        "slices": report.slices,
    }
    return {name: _plain(value) for name, value in values.items()}


def _features(report: MonitoringReport) -> dict[str, Any]:
    """Return the distribution of each feature and, if there is a baseline, its drift."""
    features = {name: _spread(values) for name, values in report.features.numbers.items() if len(values)}
    for name, counts in report.features.counts.items():
        features[name] = {"n": sum(counts.values()), "counts": dict(counts)}
    for name in features.keys() & report.drift.keys():
        features[name] |= vars(report.drift[name])
    return features


def _spread(values: Sequence[float]) -> dict[str, Any]:
    low, median, high = np.quantile(np.asarray(values), (0.1, 0.5, 0.9)).tolist()
    return {"n": len(values), "mean": float(np.mean(values)), "p10": low, "p50": median, "p90": high}


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Convert times, dataclasses and intervals; infinity and NaN, which JSON lacks, become ``None``."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, Interval):
        return value._asdict()
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
