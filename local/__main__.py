"""``python -m local``: up, down, demo and drift."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

import click
from rich.console import Console

from local import HOME, LocalError, Ports
from model.terminal.failures import INTERRUPTED, told
from model.terminal.progress import counted

if TYPE_CHECKING:
    from local.stack import Stack

TRAINED = HOME / "model"
"""Where `make train` leaves its model."""
WIDE = 110
"""Columns where no terminal says how many it has."""


class Steps:
    """Say what is being done, and how long it took when the next thing begins."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.status = console.status("")
        self.step: str | None = None
        self.began = time.monotonic()

    def __call__(self, step: str) -> None:
        """Begin a step, which ends the one before."""
        self._end()
        self.step, self.began = step, time.monotonic()
        self.status.update(f"{step} …")
        self.status.start()

    def __enter__(self) -> "Steps":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if error is None:
            self._end()
        self.status.stop()

    def _end(self) -> None:
        self.status.stop()
        if self.step:
            self.console.print(
                f"{self.step:<40} [dim]{time.monotonic() - self.began:5.1f} s[/]", highlight=False
            )
        self.step = None


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of a failure (before COMMAND).")
def local(*, debug: bool) -> None:
    """AWS on this machine: the whole stack, without an account and without Docker.

    Whatever its exit code, `demo` leaves nothing running.

    \b
    Examples:
      python -m local demo --photos ~/Pictures/couriers
      python -m local up && python -m local drift; python -m local down

    \b
    Exit codes:
      0    done
      1    something failed; one line on stderr says what
      2    the command was called wrongly
      130  stopped by Ctrl-C
    """  # noqa: D301  click reads \b as a character


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print it as JSON; all else goes to stderr."
)


def with_stack(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a stack: its model, and where its servers listen, on 127.0.0.1 alone."""
    named = {"endpoint": "the model's endpoint", "emulator": "the AWS emulator"}
    for name, what in named.items():
        option = click.option(
            f"--{name}-port",
            type=click.IntRange(1, 65535),
            default=getattr(Ports, name),
            envvar=f"{name.upper()}_PORT",
            show_default=True,
            show_envvar=True,
            help=f"The port of {what}.",
        )
        command = option(command)
    return click.option(
        "--model",
        type=click.Path(path_type=Path),
        default=TRAINED if TRAINED.exists() else None,
        help="The model to ask: a folder that `model train` wrote. By default what `make train` made, or the "
        "ready-made model.",
    )(command)


@local.command()
@click.option(
    "--for-containers",
    is_flag=True,
    help="Run the functions in Lambda's images, and answer on Docker's bridge too, for `sam local invoke`.",
)
@json_option
@with_stack
def up(
    *, for_containers: bool, model: Path | None, emulator_port: int, endpoint_port: int, as_json: bool
) -> None:
    """Start everything, deploy the stack, and leave it running.

    Writes .local/stack.json, which says where everything is.

    \b
    Examples:
      python -m local up
      python -m local up --json | jq -r .outputs.UploadBucketName
      python -m local up --model trained/ --for-containers
    """  # noqa: D301  click reads \b as a character
    console = Console(stderr=as_json)
    with failing_in_one_line(), Steps(console) as report:
        from local.stack import Stack  # noqa: PLC0415  --help should not wait for it

        ports = Ports(emulator_port, endpoint_port)
        stack = Stack(ports=ports, model=model, for_containers=for_containers)
        stack.up(report)
    if as_json:
        click.echo(json.dumps(json.loads(Path(stack.description).read_text())))
        return
    console.print(
        f"\nThe stack is up. In your shell:\n\n"
        f"  export AWS_ENDPOINT_URL={stack.container_url if for_containers else stack.endpoint_url}\n"
        f"  export AWS_DEFAULT_REGION={stack.region}\n"
        f"  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test\n"
        f"  aws s3 cp photo.jpg s3://{stack.outputs['UploadBucketName']}/uploads/\n"
        f"  aws dynamodb scan --table-name {stack.outputs['ResultsTableName']}\n\n"
        f"Everything else is in .local/stack.json; `make down` ends it.",
        soft_wrap=True,
        highlight=False,
    )


@local.command()
def down() -> None:
    """End what `up` left running; fine to call when nothing is.

    \b
    Examples:
      python -m local down
    """  # noqa: D301  click reads \b as a character
    with failing_in_one_line():
        from local.stack import Stack  # noqa: PLC0415  as above

        stopped = Stack().down()
    click.echo(f"Ended {' and '.join(stopped)}." if stopped else "Nothing was running.")


@local.command("demo")
@click.option(
    "--photos", type=click.Path(path_type=Path), help="A folder of your own photos, instead of drawn ones."
)
@json_option
@with_stack
def show(
    *, photos: Path | None, model: Path | None, emulator_port: int, endpoint_port: int, as_json: bool
) -> None:
    """Send photos through the whole stack, and show what became of them.

    Takes it all down again, come what may.

    \b
    Examples:
      python -m local demo
      python -m local demo --photos ~/Pictures/couriers --model trained/
      python -m local demo --json | jq '.[] | select(.outcome == "needs_review")'
    """  # noqa: D301  click reads \b as a character
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    with failing_in_one_line():
        from local import demo  # noqa: PLC0415  as above
        from local.stack import Stack  # noqa: PLC0415  as above

        content = demo.photos(photos)
        stack = Stack(ports=Ports(emulator_port, endpoint_port), model=model)
        with Steps(console) as report, stack.running(report):
            report(f"Classifying {len(content)} photos")
            report.status.stop()
            outcomes = list(counted(demo.classify(stack, content), len(content), "Classifying", console))
        outcomes.sort(key=lambda outcome: outcome.photo.uploaded_at)
        if as_json:
            click.echo(json.dumps([asdict(outcome) | {"photo": outcome.photo.name} for outcome in outcomes]))
        console.print("", demo.table(outcomes))
        counts = Counter(outcome.outcome for outcome in outcomes)
        console.print(
            ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()), highlight=False
        )
        if lost := counts["failed"] + counts["missing"]:
            raise LocalError(f"{lost} of {len(outcomes)} photos got no result (more: {HOME / 'logs'})")
        page = report_of(stack)
        console.print(
            f"\nHow sure the model was, over time and photo by photo: {page}", highlight=False, soft_wrap=True
        )


def report_of(stack: "Stack") -> Path:
    """Write the monitoring report of all that was captured, and return where its page is."""
    from functions.monitor.monitoring.captures import TimeWindow  # noqa: PLC0415  plots take a second to import
    from local import watch  # noqa: PLC0415  as above
    from model import monitor  # noqa: PLC0415
    from model.monitoring import baseline  # noqa: PLC0415
    from model.network.classifier import Classifier  # noqa: PLC0415

    known = baseline.read(stack.model) if stack.model and (stack.model / baseline.FILE).exists() else None
    out = stack.home / "report"
    watch.report(stack, Classifier.load(stack.model).description, out, known, TimeWindow())
    return out / monitor.REPORT


@local.command("drift")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=TRAINED if TRAINED.exists() else None,
    help="The model that the stack asks, as for `up`.",
)
@json_option
def drift(*, model: Path | None, as_json: bool) -> None:
    """Rehearse: send the running stack a day in a minute that goes wrong half-way, and see it found.

    Yesterday, a good day, becomes the stack's baseline. `make up` first; what it left stays up.

    \b
    Examples:
      python -m local up && python -m local drift
    """  # noqa: D301  click reads \b as a character
    from local import watch  # noqa: PLC0415  plots take a second to import
    from local.stack import Stack  # noqa: PLC0415  as above
    from model.network.classifier import Classifier  # noqa: PLC0415

    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    with failing_in_one_line():
        stack = Stack.find(model=model)
        with Steps(console) as tell:
            rehearsed = watch.rehearse(stack, Classifier.load(model).description, tell)
        if as_json:
            drifted = {name: at.isoformat() for name, at in rehearsed.found.since.items()}
            click.echo(json.dumps({"drifted_since": drifted, "page": str(rehearsed.page)}))
        console.print("\nWhat CloudWatch was told:", watch.table(rehearsed.told))
        for name, since in sorted(rehearsed.found.since.items(), key=lambda pair: pair[1]):
            console.print(f"{name} drifted from {since:%H:%M:%S} on", highlight=False)
        console.print(f"\nThe report: {rehearsed.page}", highlight=False, soft_wrap=True)
        if not rehearsed.found.drifted:
            raise LocalError(f"the drift went unnoticed (more: {HOME / 'logs'})")


@contextmanager
def failing_in_one_line() -> Iterator[None]:
    """End in one clear line and an exit code, also when the terminal or the system asks to stop."""
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Interrupted; nothing is left running.", err=True)
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        ctx = click.get_current_context()
        if ctx.find_root().params["debug"]:
            raise
        raise click.ClickException(told(error, f"python -m local --debug {ctx.info_name}")) from error


def interrupt(number: int, frame: FrameType | None) -> None:
    """Treat a request to end as Ctrl-C, so that everything is taken down."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    local(prog_name="python -m local")
