"""What is mutated, and which tests have to notice it, the quickest first."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
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
        Target(
            ["functions/classify/*.py"],
            [
                "tests/unit/test_template.py::test_a_function_is_done_with_its_retries_before_its_timeout",
                "tests/unit/test_classify.py",
                "tests/unit/test_captures.py",
            ],
        ),
        Target(["functions/serialize/*.py"], ["tests/unit/test_serialize.py", "tests/unit/test_sandbox.py"]),
        Target(["functions/monitor/**/*.py"], MONITOR),
    ],
    "erasure": [
        Target(
            ["pipeline/erasure.py", "pipeline/photo_copies.py", "pipeline/photo_identity.py"],
            ["tests/unit/test_erasure.py", "tests/unit/test_erasure_places.py"],
        )
    ],
    "review": [
        Target(
            ["pipeline/review_queue.py"],
            ["tests/unit/test_review_answers.py", "tests/unit/test_review_queue.py"],
        ),
        Target(
            ["pipeline/review_page.py"],
            [
                "tests/unit/test_review_guard.py",
                "tests/unit/test_review_routes.py",
                "tests/unit/test_review_queue.py",
            ],
        ),
    ],
    "replay": [Target(["pipeline/replay.py"], ["tests/unit/test_replay.py"])],
    "templates": [
        Target(
            ["template.yaml"],
            [
                "tests/unit/test_template.py",
                "tests/unit/test_template_policies.py",
                "tests/unit/test_lifecycle.py",
                "tests/unit/test_state_machine.py",
                "tests/unit/test_template_access.py",
                "tests/validators/test_templates.py",
            ],
        ),
        Target(
            [".github/oidc.yaml"],
            [
                "tests/unit/test_template.py",
                "tests/unit/test_template_policies.py",
                "tests/unit/test_template_access.py",
                "tests/unit/test_github.py",
                "tests/unit/test_github_trust.py",
                "tests/validators/test_templates.py",
            ],
        ),
        Target(
            ["model/roles.yaml"],
            [
                "tests/unit/test_roles_policies.py",
                "tests/unit/test_template.py",
                "tests/unit/test_template_policies.py",
                "tests/unit/test_template_access.py",
                "tests/validators/test_templates.py",
            ],
        ),
        Target(
            ["events/subscriber.yaml"],
            [
                "tests/unit/test_template.py",
                "tests/unit/test_template_policies.py",
                "tests/unit/test_template_access.py",
                "tests/validators/test_templates.py",
            ],
        ),
    ],
    "statemachine": [
        Target(
            ["statemachine/*.asl.json"],
            ["tests/unit/test_state_machine.py", "tests/validators/test_state_machines.py"],
        )
    ],
}


_REMOVED = "template.yaml: Resources.{}.Properties.*PolicyDocument.Statement.*"
ELSEWHERE = {
    _REMOVED.format("*FunctionRole"): "tests/e2e/test_permissions.py",
    _REMOVED.format("ForgetPolicy"): "tests/e2e/test_forget.py",
    _REMOVED.format("ReviewPolicy"): "tests/e2e/test_review_page.py",
    **{
        _REMOVED.format(f"{command}Policy"): "tests/e2e/test_command_permissions.py"
        for command in ("Replay", "Backfill", "Traffic", "Monitor")
    },
}
"""The tests that drop statements and actions on the running stack, one at a time, and see a command fail."""


def tried_elsewhere(name: str) -> str | None:
    """The end-to-end test that makes the same mutation, which those of resources and conditions are not."""
    if (
        re.search(r"\.(Resource|Condition|Effect|Version)\b", name)
        or "Action.xray:" in name
        or "Action.logs:" in name
    ):
        return None
    return next((test for pattern, test in ELSEWHERE.items() if fnmatchcase(name, pattern)), None)


TEMPLATES = [path for target in GROUPS["templates"] for path in target.paths()]


def chosen(groups: Sequence[str]) -> dict[str, Target]:
    """The files of some groups, or of all, each with its target."""
    targets = [target for group in groups or GROUPS for target in GROUPS[group]]
    return {path: target for target in targets for path in target.paths()}
