"""Report on a local endpoint's captures, as `scones monitor` does."""

from pathlib import Path

from functions.monitor.capture_analysis.captures import TimeWindow
from functions.monitor.capture_analysis.drift import Baseline
from functions.monitor.capture_analysis.window import Window
from local.stack import Stack
from model import html_page
from model.network.artifact import Description
from model.network.classifier import Classifier
from model.training import baseline
from pipeline.monitoring import analysis, report
from pipeline.monitoring.analysis import MonitoringReport


def write_page(stack: Stack) -> Path:
    """Write the report on all captures to the stack's home, and return the path of its page."""
    known = baseline.read(stack.model) if stack.model and (stack.model / baseline.FILE).exists() else None
    folder = stack.home / "report"
    found = analyse(stack, Classifier.load(stack.model).description, TimeWindow(), known)
    report.write(folder, found)
    return folder / html_page.REPORT


def analyse(
    stack: Stack, model: Description, bounds: TimeWindow, known: Baseline | None = None
) -> MonitoringReport:
    """Analyse the captures of a time window, compared with a baseline if there is one."""
    window = Window(model.threshold, model.labels, sample_size=2000, least_confident_size=analysis.GALLERY)
    return analysis.analyse(str(stack.captures), bounds, window, baseline=known)
