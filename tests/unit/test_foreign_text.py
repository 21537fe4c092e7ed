"""Text that others wrote, such as an object key, cannot control a terminal, a page or a file's name."""

import io
import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console as RichConsole

from local import demo
from model.foreign_text import printable
from model.html_page import page
from model.photo import PhotoError, file_suffix
from model.terminal import tables
from model.terminal.commands import Section, lazy_group
from model.terminal.output import choose, echo, echo_json, require_confirmation
from tests.conftest import ROOT
from tests.photos import photo

HOSTILE = "a\x1b]0;title\x07\x1b[2J\r\n\t\x00\x7f\x85\x9b31m\u200b\u2028\u202e\u2066\ufeff\xad\xa0\ud800z"
SHOWN = (
    r"a\x1b]0;title\x07\x1b[2J\r\n\t\x00\x7f\x85\x9b31m"
    r"\u200b\u2028\u202e\u2066\ufeff\xad\xa0\ud800z"
)


@given(st.text(st.characters(codec=None)), st.integers(1, 50) | st.none())
def test_every_character_is_visible_and_the_length_is_limited(text, limit):
    shown = printable(text, limit)

    assert shown.isprintable()
    assert limit is None or len(shown) <= limit


@pytest.mark.parametrize("name", ["räder 摩托车 (1).jpg", "फोटो.png", "[bold]x[/]", r"C:\temp", "🛵.jpg"])
def test_a_readable_name_is_shown_as_it_is(name):
    assert printable(name) == name


def test_long_text_is_shortened_in_the_middle():
    assert printable("uploads/" + "x" * 5000 + "/1.jpg", 20) == "uploads/xx…xxx/1.jpg"


def run(print_something) -> str:
    done = CliRunner().invoke(click.command()(print_something), input="q\ny\n")
    return done.output


@pytest.mark.parametrize("error", [False, True])
def test_a_line_stays_one_line(error):
    assert run(lambda: echo(f"Deleted {HOSTILE}.", HOSTILE, err=error)) == f"Deleted {SHOWN}.\n{SHOWN}\n"


def test_a_question_stays_one_line():
    assert run(lambda: choose(HOSTILE, ["q"])) == f"{SHOWN}: q\n"
    assert run(lambda: require_confirmation(HOSTILE)).startswith(f"{SHOWN} [y/N]: ")


def test_json_is_exact_and_has_no_control_characters():
    output = run(lambda: echo_json({"key": HOSTILE}))

    assert output.removesuffix("\n").isprintable()
    assert json.loads(output) == {"key": HOSTILE}


@pytest.mark.parametrize("console", [RichConsole, tables.Console])
def test_a_table_shows_foreign_text_without_markup(console):
    shown = console(file=io.StringIO(), width=400)

    shown.print(demo.table([demo.Outcome(f"[red]{HOSTILE}", "failed", HOSTILE, label=HOSTILE)]))

    assert shown.file.getvalue().count(SHOWN) == 3
    assert f"[red]{SHOWN}" in shown.file.getvalue()
    assert all(line.isprintable() for line in shown.file.getvalue().split("\n"))


def test_a_console_prints_a_string_without_markup():
    console = tables.Console(file=io.StringIO(), width=400)

    console.print(f"[red]{HOSTILE}")

    assert console.file.getvalue() == f"[red]{SHOWN}\n"


@pytest.mark.parametrize("error", [ValueError, OSError, click.ClickException, click.UsageError])
def test_an_error_stays_one_line(error, monkeypatch):
    def fail() -> None:
        raise error(HOSTILE)

    @lazy_group("program", {"One": Section("package", {"fail": "Fail."})})
    def program(*, debug: bool) -> None: ...

    monkeypatch.setattr(program, "get_command", lambda _ctx, _name: click.command("fail")(fail))
    (line,) = [
        line for line in CliRunner().invoke(program, ["fail"]).output.split("\n") if line.startswith("Error")
    ]

    assert line.isprintable()
    assert r"\x1b]0;title\x07" in line


def test_a_traceback_has_no_control_characters(tmp_path):
    missing = tmp_path / HOSTILE.replace("\0", "").replace("\ud800", "")
    done = subprocess.run(
        [sys.executable, "-m", "scones", "--debug", "forget", "uploads/x", f"--stack={missing}.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert r"\x1b]0;title\x07" in done.stderr
    assert all(line.isprintable() for line in done.stderr.split("\n"))


@pytest.mark.parametrize("folder", ["model/pages", "pipeline/pages"])
def test_no_page_lets_foreign_text_reverse_what_follows(folder, tmp_path):
    """Every page, because the environment that they share escapes each value."""
    (tmp_path / "any.html").write_text("<p>{{ text }}</p>")

    assert page("any.html", tmp_path).render(text=f"<b>{HOSTILE}") == f"<p>&lt;b&gt;{SHOWN}</p>"
    for template in (ROOT / folder).glob("*.html"):
        assert "| safe" not in template.read_text()
        assert "autoescape" not in template.read_text()


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("JPEG", ".jpg"),
        ("PNG", ".png"),
        ("WEBP", ".webp"),
        ("GIF", ".gif"),
        ("AVIF", ".avif"),
        ("HEIF", ".heic"),
    ],
)
def test_the_name_of_a_file_to_open_depends_on_its_content(name, suffix):
    assert file_suffix(photo(name)) == suffix


def test_a_file_that_is_not_a_photo_has_no_suffix():
    with pytest.raises(PhotoError, match="not a photo of a known format"):
        file_suffix(b"[Desktop Entry]\nExec=sh\n")


@pytest.mark.parametrize(
    "statement",
    [
        "import click\nclick.echo('')",
        "from click import echo",
        "import click\nclick.secho('')",
        "import click\nclick.prompt('')",
        "import click\nclick.confirm('')",
        "print('')",
        "import sys\nsys.stdout.write('')",
        "import sys\nsys.stderr.write('')",
        "from rich import print as show",
        "from rich.console import Console",
        "import rich.console",
        "from rich.table import Table",
        "from rich.text import Text",
    ],
)
@pytest.mark.parametrize("package", ["model", "pipeline", "local"])
def test_lint_refuses_any_other_way_to_print(package, statement):
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--quiet", "--output-format=concise"]
    done = subprocess.run(
        [*ruff, f"--stdin-filename={package}/new.py", "-"],
        input=f'"""New."""\n\n{statement}\n',
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "TID251" in done.stdout or "T201" in done.stdout
