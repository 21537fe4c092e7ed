"""Report on a local endpoint's captures, as `scones monitor` does."""

from pathlib import Path

from functions.monitor.capture_analysis.captures import TimeWindow
from functions.monitor.capture_analysis.drift import Baseline
from functions.monitor.capture_analysis.window import Window
from local.stack import Stack
from model.network.artifact import Description
from model.network.classifier import Classifier
from model.training import baseline
from pipeline.monitoring import metrics, report
from pipeline.monitoring.metrics import Monitoring, Sample


def write_page(stack: Stack) -> Path:
    """Write the report on all captures to the stack's home, and return the path of its page."""
    known = baseline.read(stack.model) if stack.model and (stack.model / baseline.FILE).exists() else None
    folder = stack.home / "report"
    write(stack, Classifier.load(stack.model).description, folder, known, TimeWindow())
    return folder / report.REPORT


def write(
    stack: Stack, model: Description, folder: Path, known: Baseline | None, bounds: TimeWindow
) -> Monitoring:
    """Write the report on the captures of a time window, compared with a baseline if there is one."""
    found, _ = measure(stack, model, bounds, known)
    report.write(folder, found)
    return found


def make_baseline(stack: Stack, model: Description, bounds: TimeWindow) -> Baseline:
    """Make a baseline from the captures of a time window."""
    found, sample = measure(stack, model, bounds)
    return metrics.as_baseline(found, sample, None)


def measure(
    stack: Stack, model: Description, bounds: TimeWindow, known: Baseline | None = None
) -> tuple[Monitoring, Sample]:
    """Read the captures of a time window and compute what is reported on them."""
    source = str(stack.captures)
    window = Window(model.threshold, model.labels, sample_size=2000, least_confident_size=metrics.SHOWN)
    tally = metrics.gather(source, bounds, window)
    sample = metrics.measure(window, None, 0)
    return metrics.monitor(source, bounds, window, tally, sample, baseline=known), sample
