"""What is mutated, and which tests have to notice it, the quickest first."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.mutation import ROOT


class Target(NamedTuple):
    """Files that are mutated, as patterns, and the test files that run for each mutant."""

    files: Sequence[str]
    tests: Sequence[str]

    def paths(self) -> list[str]:
        found = (path for pattern in self.files for path in sorted(ROOT.glob(pattern)))
        return [path.relative_to(ROOT).as_posix() for path in found if path.name != "__init__.py"]


MONITOR = (
    "tests/unit/test_captures.py",
    "tests/unit/test_window.py",
    "tests/unit/test_monitor_function.py",
    "tests/unit/test_drift.py",
)
GROUPS: dict[str, list[Target]] = {
    "functions": [
        Target(["functions/filter/*.py"], ["tests/unit/test_filter.py"]),
        Target(["functions/classify/*.py"], ["tests/unit/test_classify.py"]),
        Target(["functions/serialize/*.py"], ["tests/unit/test_photo.py", "tests/unit/test_serialize.py"]),
        Target(["functions/monitor/**/*.py"], MONITOR),
    ],
    "erasure": [Target(["pipeline/erasure.py"], ["tests/unit/test_erasure.py"])],
    "review": [
        Target(["pipeline/review_queue.py"], ["tests/unit/test_review_queue.py"]),
        Target(
            ["pipeline/review_page.py"],
            ["tests/unit/test_review_routes.py", "tests/unit/test_review_queue.py"],
        ),
    ],
    "replay": [Target(["pipeline/replay.py"], ["tests/unit/test_replay.py"])],
    "templates": [
        Target(
            ["template.yaml"],
            [
                "tests/unit/test_template.py",
                "tests/unit/test_lifecycle.py",
                "tests/unit/test_state_machine.py",
                "tests/unit/test_template_access.py",
                "tests/validators/test_templates.py",
            ],
        ),
        Target(
            [".github/oidc.yaml"],
            [
                "tests/unit/test_template_access.py",
                "tests/unit/test_github_trust.py",
                "tests/unit/test_github.py",
                "tests/validators/test_templates.py",
            ],
        ),
        Target(
            ["model/roles.yaml", "events/subscriber.yaml"],
            ["tests/unit/test_template_access.py", "tests/validators/test_templates.py"],
        ),
    ],
    "statemachine": [
        Target(
            ["statemachine/*.asl.json"],
            ["tests/unit/test_state_machine.py", "tests/validators/test_state_machines.py"],
        )
    ],
}


def chosen(groups: Sequence[str]) -> Iterator[Target]:
    for group in groups or GROUPS:
        yield from GROUPS[group]
