"""Options that several commands share."""

import click

stack_option = click.option(
    "--stack",
    metavar="NAME",
    help="A stack in AWS, such as scones-unlimited-dev, or the stack.json of a local one.  "
    "[default: .local/stack.json, which `make up` writes]",
)
