"""`make pictures`: what docs/ shows, by running everything for real and looking at it in a browser.

The demo's table is of a demo, on a stack of its own; the monitoring report is of the rehearsal of a bad
day, and the review page of a photo in a review queue, on another. The evaluation is of drawings, in which it
says nothing about photos; of a folder of photos with `python -m docs.pictures --photos folder`.
"""

import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
from PIL import Image
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, DIMMED_MONOKAI, TerminalTheme

from local import Ports, demo, watch
from local.stack import Stack
from model.network.classifier import Classifier
from pipeline import sample_images
from tests.browser import Browser, Tab
from tests.conftest import free_port

DOCS = Path(__file__).parent
SCHEMES = ("light", "dark")
THEMES: dict[str, TerminalTheme] = {"light": DEFAULT_TERMINAL_THEME, "dark": DIMMED_MONOKAI}
WIDE, NARROW = 1240, 400
"""Pixels of a page on a desk and on a phone."""
SEEDS = 40
"""Drawings of each kind in the evaluation without photos."""


@click.command()
@click.option("--photos", type=click.Path(exists=True, path_type=Path), help="folder/<label>/* to evaluate.")
def main(photos: Path | None) -> None:
    """Make every picture in docs/ that is of something running."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        demo_table()
        with Browser.running(home / "profile") as browser:
            evaluation(browser.tab(), home, photos)
            stack = Stack(home=home / "stack", ports=Ports(free_port(), free_port()))
            with stack.running(report=print):
                review(browser.tab(), stack)
                rehearsed = watch.rehearse(stack, Classifier.load(None).description, print)
                tab = browser.tab()
                tab.go(rehearsed.page.as_uri())
                tab.until("document.readyState === 'complete'")
                shoot(tab, "monitor", WIDE, 1130)
                shoot(tab, "monitor-narrow", NARROW, 1500, schemes=("light",))


def demo_table() -> None:
    """Run the demo, and keep its table as it stands on a light and on a dark terminal."""
    ports = ("--emulator-port", str(free_port()), "--endpoint-port", str(free_port()))
    command = [sys.executable, "-m", "scones", "demo", "--json", *ports]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=DOCS.parent)  # noqa: S603
    now = datetime.now(UTC)
    outcomes = [
        demo.Outcome(**one | {"photo": demo.Photo(one["photo"], one["photo"], now)})
        for one in json.loads(ran.stdout)
    ]
    for scheme, theme in THEMES.items():
        console = Console(record=True, width=88, file=io.StringIO())
        console.print(demo.table(outcomes))
        svg = console.export_svg(title="make demo", theme=theme, unique_id=f"demo-{scheme}")
        # the fonts it would fetch from elsewhere: what the reader has will do
        (DOCS / f"demo-{scheme}.svg").write_text(re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL))


def evaluation(tab: Tab, home: Path, photos: Path | None) -> None:
    """Evaluate the ready-made model, and keep the top of the report."""
    out = home / "evaluation"
    evaluate = ["evaluate", "--data", str(photos or drawings(home / "drawings")), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "scones", *evaluate], check=True, cwd=DOCS.parent)  # noqa: S603
    tab.go((out / "report.html").as_uri())
    tab.until("document.readyState === 'complete'")
    shoot(tab, "evaluation", WIDE, 1130)


def drawings(folder: Path) -> Path:
    """Draw labelled pictures, every other one of them in fog, and return their folder."""
    subjects = {
        "bicycle": sample_images.bicycle,
        "motorcycle": sample_images.motorcycle,
        "other": sample_images.scone,
    }
    for label, subject in subjects.items():
        (folder / label).mkdir(parents=True)
        for seed in range(SEEDS):
            clear = sample_images.picture(subject, 1000 + seed)
            seen = Image.blend(clear, sample_images.FOG, 0.74) if seed % 2 else clear
            (folder / label / f"{seed}.jpg").write_bytes(sample_images.encoded(seen))
    return folder


def review(tab: Tab, stack: Stack) -> None:
    """Have a photo wait for review, and keep the page that shows it."""
    in_fog = {name: content for name, content in sample_images.demo_pictures() if "fog" in name}
    list(demo.classify(stack, in_fog))
    with served(stack) as address:
        tab.go(address)
        tab.until("document.querySelector('#frame img')?.naturalWidth")
        shoot(tab, "review", WIDE, 760)
        tab.go("about:blank")


@contextmanager
def served(stack: Stack) -> Iterator[str]:
    """Serve the review page of a stack, and give its address."""
    command = ["review", "--no-browser", "--reviewer", "ada", "--stack", str(stack.description)]
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "scones", *command], stderr=subprocess.PIPE, text=True, cwd=DOCS.parent
    ) as process:
        try:
            said = process.stderr.readline() if process.stderr else ""
            yield said[said.index("http://") :].split()[0]
        finally:
            process.terminate()


def shoot(tab: Tab, name: str, width: int, height: int, schemes: tuple[str, ...] = SCHEMES) -> None:
    """Keep what a tab shows, in a light and in a dark window."""
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
