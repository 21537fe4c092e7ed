"""Make the pictures in docs/: run everything and take screenshots of it in Chromium (`make pictures`).

The evaluation is on drawings by default and says nothing about photos; evaluate photos with
`python -m docs.pictures --photos folder`.
"""

import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from PIL import Image
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, DIMMED_MONOKAI, TerminalTheme

from local import Ports, demo, drift_rehearsal
from local.stack import Stack
from model.network.classifier import Classifier
from pipeline import sample_images
from tests.browser import Browser, Tab
from tests.conftest import free_port

DOCS = Path(__file__).parent
THEMES: dict[str, TerminalTheme] = {"light": DEFAULT_TERMINAL_THEME, "dark": DIMMED_MONOKAI}
WIDE, NARROW = 1240, 400
"""Width in pixels of a page on a desktop and on a phone."""
SEEDS = 40
"""Drawings of each label in the evaluation without photos."""


@click.command()
@click.option(
    "--photos", type=click.Path(exists=True, path_type=Path), help="folder/<label>/* to evaluate on."
)
def main(photos: Path | None) -> None:
    """Make every picture in docs/ that shows something running."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        demo_table()
        with Browser.running(home / "profile") as browser:
            evaluation(browser.tab(), home, photos)
            stack = Stack(home=home / "stack", ports=Ports(free_port(), free_port()))
            with stack.running(progress=print):
                review(browser.tab(), stack)
                rehearsal = drift_rehearsal.rehearse(stack, Classifier.load(None).description, print)
                tab = browser.tab()
                open_file(tab, rehearsal.page)
                shoot(tab, "monitor", WIDE, 1130)
                shoot(tab, "monitor-narrow", NARROW, 1500, schemes=("light",))


def scones(*arguments: str) -> bytes:
    """Run a command, and return its output."""
    command = [sys.executable, "-m", "scones", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=DOCS.parent).stdout  # noqa: S603


def open_file(tab: Tab, file: Path) -> None:
    """Open a page in a tab, and wait until it is complete."""
    tab.go(file.as_uri())
    tab.until("document.readyState === 'complete'")


def demo_table() -> None:
    """Run the demo, and save its table as a light and as a dark terminal shows it."""
    shown = scones("demo", "--json", f"--emulator-port={free_port()}", f"--endpoint-port={free_port()}")
    outcomes = [demo.Outcome(**outcome) for outcome in json.loads(shown)]
    for scheme, theme in THEMES.items():
        console = Console(record=True, width=88, file=io.StringIO())
        console.print(demo.table(outcomes))
        svg = console.export_svg(title="make demo", theme=theme, unique_id=f"demo-{scheme}")
        # Without the web fonts, which a viewer would have to download.
        (DOCS / f"demo-{scheme}.svg").write_text(re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL))


def evaluation(tab: Tab, home: Path, photos: Path | None) -> None:
    """Evaluate the ready-made model, and save the top of the report."""
    out = home / "evaluation"
    scones("evaluate", f"--data={photos or drawings(home / 'drawings')}", f"--out={out}")
    open_file(tab, out / "report.html")
    shoot(tab, "evaluation", WIDE, 1130)


def drawings(folder: Path) -> Path:
    """Draw labelled pictures, every second one in fog, and return their folder."""
    subjects = (sample_images.bicycle, sample_images.motorcycle, sample_images.scone)
    for label, subject in zip(("bicycle", "motorcycle", "other"), subjects, strict=True):
        (folder / label).mkdir(parents=True)
        for seed in range(SEEDS):
            clear = sample_images.picture(subject, 1000 + seed)
            picture = Image.blend(clear, sample_images.FOG, 0.74) if seed % 2 else clear
            (folder / label / f"{seed}.jpg").write_bytes(sample_images.encoded(picture))
    return folder


def review(tab: Tab, stack: Stack) -> None:
    """Send a photo that needs review, and save the review page that shows it."""
    in_fog = {name: content for name, content in sample_images.demo_pictures() if "fog" in name}
    list(demo.classify(stack, in_fog))
    command = ["review", "--no-browser", "--reviewer", "ada", "--stack", str(stack.description)]
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "scones", *command], stderr=subprocess.PIPE, text=True, cwd=DOCS.parent
    ) as process:
        try:
            line = process.stderr.readline() if process.stderr else ""
            tab.go(line[line.index("http://") :].split()[0])
            tab.until("document.querySelector('#frame img')?.naturalWidth")
            shoot(tab, "review", WIDE, 760)
            tab.go("about:blank")
        finally:
            process.terminate()


def shoot(tab: Tab, name: str, width: int, height: int, schemes: tuple[str, ...] = tuple(THEMES)) -> None:
    """Save a screenshot of a tab in each colour scheme."""
    tab("Emulation.setScrollbarsHidden", hidden=True)
    tab("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    for scheme in schemes:
        tab("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        file = DOCS / (f"{name}-{scheme}.png" if len(schemes) > 1 else f"{name}.png")
        tab.screenshot(file)
        with Image.open(file) as picture:
            picture.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    main()
