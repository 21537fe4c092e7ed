"""The monitoring report in a real browser: no errors, no requests, nothing wider than the window."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline import sample_images
from scones import cli
from tests import captures
from tests.waiting import PATIENCE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")

# The page's policy forbids scripts, so a surrounding page inspects it through a frame.
AROUND = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe src="report.html" width="{width}" height="4000" style="border:0"></iframe>
<pre id="found"></pre>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  document.querySelector("#found").textContent = JSON.stringify({{
    wide: root.scrollWidth, plots: page.querySelectorAll("svg").length,
    shown: [...page.images].filter(one => one.complete && one.naturalWidth).length,
    images: page.images.length,
    requests: page.defaultView.performance.getEntriesByType("resource").map(one => one.name)
      .filter(name => !name.startsWith("data:")),
    small: Math.min(...[...page.querySelectorAll("svg text")].map(one => one.getBoundingClientRect().height)),
    headings: [...page.querySelectorAll("h2")].map(one => one.textContent)}});
}});
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report with drift, true labels and a broken line."""
    folder, chance = tmp_path_factory.mktemp("page"), random.Random(1)
    photos = captures.photos(12)
    dark = [
        sample_images.encoded(
            sample_images.picture(sample_images.bicycle, n).point(lambda level: level * 0.3)
        )
        for n in range(6)
    ]
    captures.write(folder / "good", captures.records(300, photos, chance), chance)
    captures.write(folder / "bad", captures.records(150, photos, chance, hours=12), chance)
    noon = captures.START.replace(hour=12)
    captures.write(folder / "bad", captures.records(150, dark, chance, noon, hours=12), chance)
    some = next((folder / "bad").rglob("*.jsonl"))
    some.write_text(some.read_text() + "<broken>\n")
    truth = [json.dumps({"inference_id": f"photo-{n}", "label": "bicycle"}) for n in range(100)]
    (folder / "truth.jsonl").write_text("\n".join(truth))
    for arguments in (
        ["--captures", folder / "good", "--write-baseline", folder / "baseline.json"],
        [
            "--captures",
            folder / "bad",
            "--baseline",
            folder / "baseline.json",
            "--truth",
            folder / "truth.jsonl",
            "--out",
            folder,
        ],
    ):
        done = CliRunner().invoke(cli, ["monitor", *map(str, arguments)])
        assert done.exit_code == 0, done.output
    return folder / "report.html"


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_opens_without_errors_or_requests_and_fits(page, width, tmp_path):
    around = page.with_name(f"around-{width}.html")
    around.write_text(AROUND.format(width=width))
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=5000"),
            *(
                f"--user-data-dir={tmp_path / 'profile'}",
                "--dump-dom",
                around.as_uri(),
            ),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )

    assert "CONSOLE" not in done.stderr
    found = json.loads(done.stdout.partition('<pre id="found">')[2].partition("</pre>")[0])
    assert found["wide"] <= width
    assert found["plots"] == 7
    assert found["shown"] == found["images"] == 24
    assert found["small"] >= 8
    assert found["headings"] == [
        "Over time",
        "Drift by feature",
        "Labelled answers",
        "Least confident answers",
        "Farthest from the baseline",
        "Captured data",
    ]
    assert found["requests"] == []
