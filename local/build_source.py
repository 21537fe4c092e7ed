"""Copy what `sam build` reads, for a processor: ``python -m local.build_source FOLDER ARCHITECTURE``."""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ("arm64", "x86_64")
"""Lambda's names of its processors."""
STATED = re.compile(r"^    Architectures: \[(\w+)\]$", re.MULTILINE)
"""The line of template.yaml that states the functions' processor."""


def stated_architecture() -> str:
    """Return the processor that the checkout's template states, for which plain `sam build` builds."""
    (architecture,) = STATED.findall((ROOT / "template.yaml").read_text())
    return str(architecture)


def copy_source(folder: Path, architecture: str) -> Path:
    """Copy functions, state machines and the template, which then states an architecture; return its path.

    `sam build` installs libraries for the processor that the template states, and `sam deploy` and
    `sam local invoke` read it from the built template. A parameter could differ between these commands.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("functions", "statemachine"):
        # Contents only, because a checkout may be read-only, and sam copies permissions into the build.
        shutil.copytree(
            ROOT / name,
            folder / name,
            copy_function=shutil.copyfile,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for inner in (path for path in folder.rglob("*") if path.is_dir()):
        inner.chmod(0o755)
    template = folder / "template.yaml"
    stated = f"    Architectures: [{architecture}]"
    template.write_text(STATED.sub(stated, (ROOT / "template.yaml").read_text()))
    return template


if __name__ == "__main__":
    into, chosen = sys.argv[1:]
    if chosen not in ARCHITECTURES:
        sys.exit(f"No such architecture: {chosen}. Use {' or '.join(ARCHITECTURES)}.")
    copy_source(Path(into), chosen)
