"""Use the project in unusual environments, and print what works: ``python -m tests.environments [NAME …]``.

Each environment has its own copy of the checkout with the packages installed here. ``unshare`` (util-linux)
sets up other users and mounts, in namespaces that the machine does not notice and that need no privileges.
"""

import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from pipeline import sample_images
from tests.conftest import ROOT, free_port
from tests.waiting import PATIENCE

UNIT_TESTS = ("photo", "foreign_text", "processes", "demo", "storage", "progress")
"""A sample: files, processes, output and the decoders."""
NON_ROOT = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
UNKNOWN_USER = ("unshare", "--user", "--map-user=54321", "--map-group=54321")
ROOT_OF_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


@dataclass
class Environment:
    """How commands run: with a prefix, with changed variables (``None`` removes one), in a folder."""

    checkout: Path
    prefix: Sequence[str] = ()
    variables: Mapping[str, str | None] = field(default_factory=dict)
    umask: int = -1
    refusal: str | None = None  # the error with which the local stack says that it cannot run here

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        ports = {name: str(free_port()) for name in ("EMULATOR_PORT", "ENDPOINT_PORT")}
        # The packages' editable install is of this checkout, not of the copy.
        own = ports | {"PYTHONPATH": str(self.checkout), "SCONES_HOME": None}
        variables = os.environ | own | dict(self.variables)
        return subprocess.run(
            [*self.prefix, *command],
            cwd=self.checkout,
            env={name: value for name, value in variables.items() if value is not None},
            umask=self.umask,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )


def ordinary(scratch: Path) -> Environment:
    """Change nothing, to tell an environment's failure from any other."""
    return Environment(copy_checkout(scratch))


def non_root(scratch: Path) -> Environment:
    """Run as a user without privileges."""
    return Environment(copy_checkout(scratch), NON_ROOT)


def read_only_checkout(scratch: Path) -> Environment:
    """Allow nobody to write to the checkout; SCONES_HOME says where else."""
    checkout = copy_checkout(scratch)
    for path in (checkout, *checkout.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    return Environment(checkout, NON_ROOT, {"SCONES_HOME": str(scratch / "home")})


def umask_077(scratch: Path) -> Environment:
    """Create files that only their owner can read."""
    return Environment(copy_checkout(scratch), umask=0o077)


def unknown_user(scratch: Path) -> Environment:
    """Run as a user of whom nothing is known: no HOME, no name, no entry in the list of users."""
    unset = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "USERNAME"))
    return Environment(copy_checkout(scratch), UNKNOWN_USER, unset)


def small_tmpdir(scratch: Path) -> Environment:
    """Give temporary files four megabytes."""
    temporary = scratch / "tmp"
    temporary.mkdir()
    mount = f'mount -t tmpfs -o size=4m tmpfs {shlex.quote(str(temporary))} && exec "$@"'
    return Environment(
        copy_checkout(scratch), (*ROOT_OF_NAMESPACE, "sh", "-c", mount, "sh"), {"TMPDIR": str(temporary)}
    )


def quotes_in_the_path(scratch: Path) -> Environment:
    """Put quotes, spaces, `$` and a semicolon into the checkout's path."""
    return Environment(copy_checkout(scratch, 'it\'s a "big" $HOME; `true` räder'))


def skewed_clock(scratch: Path) -> Environment:
    """Let the clock be 400 days ahead."""
    from libfaketime import get_reload_information  # noqa: PLC0415  `make verify` installs it

    _, variables = get_reload_information()
    return Environment(copy_checkout(scratch), variables=variables | {"FAKETIME": "+400d"})


def localhost_is_ipv6(scratch: Path) -> Environment:
    """Let the name localhost mean ::1 only."""
    hosts = scratch / "hosts"
    hosts.write_text("::1 localhost\n")
    bind = f'mount --bind {shlex.quote(str(hosts))} /etc/hosts && exec "$@"'
    return Environment(copy_checkout(scratch), (*ROOT_OF_NAMESPACE, "sh", "-c", bind, "sh"))


def no_ipv4(scratch: Path) -> Environment:
    """Have no IPv4 address at all, not even 127.0.0.1, which the emulator needs."""
    remove = 'ip link set lo up && ip address del 127.0.0.1/8 dev lo && exec "$@"'
    return Environment(
        copy_checkout(scratch),
        (*ROOT_OF_NAMESPACE, "--net", "sh", "-c", remove, "sh"),
        refusal="cannot listen on 127.0.0.1",
    )


ENVIRONMENTS: Mapping[str, Callable[[Path], Environment]] = {
    "ordinary": ordinary,
    "non-root": non_root,
    "read-only checkout": read_only_checkout,
    "umask 077": umask_077,
    "HOME unset, user unknown": unknown_user,
    "TMPDIR of 4 MB": small_tmpdir,
    "quotes, spaces and $ in the path": quotes_in_the_path,
    "clock 400 days ahead": skewed_clock,
    "localhost is ::1": localhost_is_ipv6,
    "no IPv4, not even 127.0.0.1": no_ipv4,
}


def copy_checkout(scratch: Path, name: str = "checkout") -> Path:
    """Copy the files of the checkout, and link the packages so that `make setup` has nothing to install."""
    checkout = scratch / name
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for file in filter(None, listed.stdout.split("\0")):
        if (ROOT / file).exists():
            (checkout / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, checkout / file)
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    if (ROOT / ".local" / "uv").exists():
        (checkout / ".local").mkdir()
        (checkout / ".local" / "uv").symlink_to(ROOT / ".local" / "uv")
    for file in ("pyproject.toml", "uv.lock", ".python-version"):
        os.utime(checkout / file, (0, 0))
    return checkout


def uses(photos: Path) -> dict[str, list[str]]:
    """Return what is tried in each environment."""
    python = str(ROOT / ".venv" / "bin" / "python")
    tests = [f"tests/unit/test_{name}.py" for name in UNIT_TESTS]
    return {
        "scones predict": [python, "-m", "scones", "predict", str(photos)],
        "make demo": ["make", "--no-print-directory", "demo", f"PHOTOS={photos}"],
        "unit tests": [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
    }


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder that any user can reach, and delete it afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            for path in folder.rglob("*"):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o755)


def try_environment(prepare: Callable[[Path], Environment]) -> list[str]:
    """Return the result of each use: ``ok``, why it failed, or why it was not tried."""
    with scratch_folder() as scratch:
        photos = scratch / "photos"
        photos.mkdir()
        for subject in (sample_images.bicycle, sample_images.motorcycle):
            photo = sample_images.encoded(sample_images.picture(subject, seed=1))
            (photos / f"{subject.__name__}.jpg").write_bytes(photo)
        try:
            environment = prepare(scratch)
            started = environment.run(["true"])
        except (ImportError, FileNotFoundError) as error:
            return [f"not tried: {error}"]
        if started.returncode:
            return [f"not tried, needs root: {last_line(started)}"]
        return [outcome(environment.run(command), environment.refusal) for command in uses(photos).values()]


def outcome(done: subprocess.CompletedProcess[str], refusal: str | None) -> str:
    """Return ``ok``, that the command was refused as expected, or why it failed."""
    if done.returncode == 0:
        return "ok"
    if refusal and refusal in done.stderr and "Traceback" not in done.stderr:
        return f"refused: {refusal}"
    return f"exit code {done.returncode}: {last_line(done)}"


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of a command's output that says something; make's own does not."""
    lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith("make:")), "")


def main(names: Sequence[str]) -> int:
    """Try environments, print a table, and return 1 if anything failed."""
    table = Table("environment", *uses(Path()))
    results = [
        (name, try_environment(ENVIRONMENTS[name]))
        for name in track(names or list(ENVIRONMENTS), "Trying environments", console=Console(stderr=True))
    ]
    for name, result in results:
        table.add_row(name, *result)
    Console().print(table, markup=False)
    return int(any(one.startswith("exit code") for _, result in results for one in result))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
