"""Each function imports in Lambda, where its own folder is the root of all imports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FUNCTIONS = Path(__file__).parents[2] / "functions"


@pytest.mark.parametrize("function", sorted(path.parent.name for path in FUNCTIONS.glob("*/app.py")))
def test_a_function_imports_from_its_own_folder(function):
    code = "import app; print(app.lambda_handler.__name__, app.__package__ == '')"
    environment = os.environ | {"AWS_DEFAULT_REGION": "us-east-1"}

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=FUNCTIONS / function,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["lambda_handler", "True"]
