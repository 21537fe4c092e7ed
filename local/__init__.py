"""AWS on this machine: the emulator, the model's endpoint, the stack on both, and a demonstration."""

from dataclasses import dataclass
from pathlib import Path

COMMANDS = {
    "demo": "Send photos through the whole stack, and show what became of them.",
    "up": "Start everything, deploy the stack, and leave it running.",
    "down": "End what `up` left running; fine to call when nothing is.",
    "drift": "Rehearse: send the running stack a day in a minute that goes wrong half-way, and see it found.",
}
"""Name and summary of each command."""
HOME = Path(__file__).parents[1] / ".local"
"""Where `make demo` and `make up` keep what they write."""


class LocalError(Exception):
    """Something that the user can put right; its text says how."""


@dataclass(frozen=True)
class Ports:
    """Where the servers listen, on 127.0.0.1 alone.

    Raises
    ------
    LocalError
        It is the same port twice.
    """

    emulator: int = 4566
    endpoint: int = 4567

    def __post_init__(self) -> None:
        if self.emulator == self.endpoint:
            raise LocalError(
                f"port {self.emulator} cannot be the emulator's and the endpoint's at once: "
                "choose another with EMULATOR_PORT or ENDPOINT_PORT"
            )
