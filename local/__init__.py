"""AWS on this machine: the emulator, the model's endpoint, the stack deployed to both, and a demo."""

from dataclasses import dataclass

import pipeline

COMMANDS = {
    "demo": "Send photos through the whole stack on this machine and show their outcomes.",
    "up": "Start the emulator and the endpoint, deploy the stack, and leave it running.",
    "down": "Stop the stack that `up` left running, if there is one.",
    "drift": "Rehearse drift detection on the running stack: a day that goes wrong at noon.",
}
"""Name and summary of each command."""
HOME = pipeline.HOME
"""Where `make demo` and `make up` write their files."""


class LocalError(Exception):
    """An error that the user can fix; the message says how."""


@dataclass(frozen=True)
class Ports:
    """The ports of the two servers, both on 127.0.0.1."""

    emulator: int = 4566
    endpoint: int = 4567

    def __post_init__(self) -> None:
        if self.emulator == self.endpoint:
            raise LocalError(
                f"Port {self.emulator} is set for both the emulator and the endpoint. "
                "Choose another with EMULATOR_PORT or ENDPOINT_PORT."
            )
