"""A group of commands that are imported only when they are called."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import click

from model.terminal.errors import report_errors_in_one_line


class Section(NamedTuple):
    """Commands under one heading of ``--help``, by name, with a one-line summary of each.

    Command ``data`` is the object ``command`` in the module ``{package}.data``.
    """

    package: str
    summaries: Mapping[str, str]


class LazyGroup(click.Group):
    """Import a command only when it is called, so that ``--help`` imports no large libraries."""

    def __init__(self, *, sections: Mapping[str, Section], **options: Any) -> None:  # noqa: ANN401  click's
        super().__init__(**options)
        self.sections = sections
        self.packages = {name: section.package for section in sections.values() for name in section.summaries}

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names of all commands, section by section."""
        return list(self.packages)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import the module of a command."""
        if name not in self.packages:
            return None
        return cast("click.Command", importlib.import_module(f"{self.packages[name]}.{name}").command)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands section by section."""
        for heading, section in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl(list(section.summaries.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Run the command, and report an error in one line."""
        with report_errors_in_one_line(ctx):
            return super().invoke(ctx)


def lazy_group(name: str, sections: Mapping[str, Section]) -> Callable[[Callable[..., None]], LazyGroup]:
    """Declare a command line: a group with ``--debug``, whose commands also show their defaults."""
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
    debug = click.option("--debug", is_flag=True, help="Show the traceback of a failure (before COMMAND).")
    group = click.group(name, cls=LazyGroup, sections=sections, context_settings=settings)
    return lambda callback: group(debug(callback))
