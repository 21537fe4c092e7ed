"""Print to the terminal: every command does it here, so that foreign text cannot control the terminal.

A file name or an object key may contain escape codes, or a line break and a line that looks like ours.
`make lint` refuses other ways to print (ruff's banned-api).
"""

import json
from collections.abc import Collection

import click

from model.foreign_text import LIMIT, printable


def echo(*lines: object, err: bool = False, limit: int | None = LIMIT) -> None:
    """Print lines, on stdout or stderr; a line break inside one is escaped, and long ones are shortened."""
    for line in lines:
        click.echo(printable(str(line), limit), err=err)


def echo_json(value: object, indent: int | None = None) -> None:
    """Print a value as JSON in ASCII."""
    # DEL is the only control character that JSON does not escape.
    click.echo(json.dumps(value, indent=indent).replace("\x7f", r"\u007f"))


def choose(question: str, answers: Collection[str]) -> str:
    """Ask until one of these answers is given."""
    answer: str = click.prompt(printable(question), type=click.Choice(list(answers)), show_choices=False)
    return answer


def require_confirmation(question: str) -> None:
    """Ask a question, and abort the command unless the answer is yes."""
    click.confirm(printable(question), abort=True)
