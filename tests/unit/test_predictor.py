import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from scones import SECTIONS, cli


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with two pictures and a text file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.radial_gradient("L").convert("RGB").save(folder / "b.jpg")
    Image.linear_gradient("L").convert("RGB").resize((900, 300)).save(folder / "A.PNG")
    (folder / "notes.txt").write_text("left at the door")
    return folder


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["predict", *map(str, arguments)])


def lines(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_photo_gets_one_line_with_every_field(photos):
    result = predict(photos / "b.jpg")

    (line,) = lines(result)
    assert result.exit_code == 0
    assert list(line) == ["file", "label", "confidence", "probabilities", "decision", "reason"]
    assert line["file"] == str(photos / "b.jpg")
    assert list(line["probabilities"]) == ["bicycle", "motorcycle", "other"]
    assert line["confidence"] == line["probabilities"][line["label"]] == max(line["probabilities"].values())
    assert (line["decision"], line["reason"]) == ("needs_review", "not_a_vehicle")


def test_a_folder_stands_for_its_photos_in_order(photos):
    result = predict(photos)

    assert [line["file"] for line in lines(result)] == [str(photos / "A.PNG"), str(photos / "b.jpg")]


def test_a_file_that_is_not_a_photo_is_rejected_and_the_others_are_classified(photos):
    result = predict(photos / "notes.txt", photos / "b.jpg")

    rejected, classified = lines(result)
    assert result.exit_code == 1
    assert rejected == {
        "file": str(photos / "notes.txt"),
        "label": None,
        "confidence": None,
        "probabilities": None,
        "decision": "rejected",
        "reason": "it is not a JPEG, PNG, WebP, GIF, HEIC or AVIF image",
    }
    assert classified["decision"] == "needs_review"


def test_the_threshold_decides_what_is_accepted(photos, monkeypatch):
    monkeypatch.setattr("model.network.classifier.Classifier.classify", lambda *_: [0.7, 0.2, 0.1])

    (strict,), (lax,) = (lines(predict("--threshold", at, photos / "b.jpg")) for at in (0.71, 0.7))

    assert (strict["decision"], strict["reason"]) == ("needs_review", "low_confidence")
    assert (lax["decision"], lax["reason"]) == ("accepted", "confident")


def test_a_model_that_cannot_be_loaded_is_an_error(photos, tmp_path):
    result = predict("--model", tmp_path, photos)

    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1
    assert "is not a model" in result.output


def test_debug_shows_the_traceback(photos, tmp_path):
    result = CliRunner().invoke(cli, ["--debug", "predict", "--model", str(tmp_path), str(photos)])

    assert type(result.exception).__name__ == "ArtifactError"


def test_an_empty_folder_is_an_error(tmp_path):
    result = predict(tmp_path)

    assert result.exit_code == 1
    assert "contains no photos" in result.output


@pytest.mark.parametrize("arguments", [[], ["nowhere.jpg"], ["--threshold", "2", "."]])
def test_a_usage_error_is_exit_code_2(arguments):
    assert predict(*arguments).exit_code == 2


def test_the_summary_of_a_command_is_the_first_line_of_its_help():
    context = cli.make_context("scones", [], resilient_parsing=True)
    commands = {name: cli.get_command(context, name) for name in cli.list_commands(context)}

    summaries = {
        name: summary for section in SECTIONS.values() for name, summary in section.summaries.items()
    }
    assert {name: command.help.splitlines()[0] for name, command in commands.items()} == summaries
    assert all(command.name == name for name, command in commands.items())


def test_an_unknown_command_is_a_usage_error():
    assert CliRunner().invoke(cli, ["guess"]).exit_code == 2


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"]])
def test_help_is_plain_and_imports_nothing_heavy(arguments):
    heavy = "{'onnx', 'onnxruntime', 'numpy', 'PIL', 'starlette', 'boto3'}"
    script = (
        "import sys, atexit, runpy; "
        f"atexit.register(lambda: print('HEAVY', sorted({heavy} & set(sys.modules)), file=sys.stderr)); "
        f"sys.argv = ['scones', *{arguments!r}]; runpy.run_module('scones', run_name='__main__')"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "Examples:" in done.stdout
    assert "Exit codes:" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == "HEAVY []\n"
