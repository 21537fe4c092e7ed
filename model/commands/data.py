"""``scones data``: labelled photos, from an archive or a folder to a data set on disk and in S3."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model.data.builder import (
    CIFAR_100,
    check_replaceable,
    count,
    find_archive,
    from_archive,
    from_folder,
    hold_out,
    with_reviewed,
    without_copies,
    write,
)

if TYPE_CHECKING:
    from model.data.reviewed_photos import Reviewed
    from model.data.staging import Staged


@click.command("data")
@click.option(
    "--source",
    default=CIFAR_100,
    show_default=True,
    help="CIFAR-100's archive, its address, or a folder with a sub-folder of photos for each label.",
)
@click.option(
    "--classes",
    help="The labels, separated by commas.  [default: all of a folder; of CIFAR-100 bicycle,motorcycle]",
)
@click.option(
    "--other", help="Classes whose photos are labelled `other`, separated by commas, or all the rest: all."
)
@click.option(
    "--reviewed",
    metavar="FOLDER|S3-URI",
    help="Photos that people labelled, to join the training photos: a folder as --source, or what "
    "`scones review` wrote, the stack's GroundTruthUri.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--to", help="Where in S3 to stage it: s3://bucket/prefix.")
@click.option(
    "--test-share",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="How much of a folder to hold out for testing. (CIFAR-100 has test photos of its own.)",
)
@click.option("--skip-unreadable", is_flag=True, help="Leave photos out that cannot be read, and name them.")
@click.option("--sha256", help="What the archive's SHA-256 has to be.")
@click.option("--dry-run", is_flag=True, help="Say what would be written and staged, and do neither.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
def command(
    *,
    source: str,
    classes: str | None,
    other: str | None,
    reviewed: str | None,
    out: Path,
    to: str | None,
    test_share: float,
    skip_unreadable: bool,
    sha256: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a data set of labelled photos: from CIFAR-100, or from a folder of your own.

    Writes OUT/train/LABEL/*, OUT/test/LABEL/*, OUT/train.lst and OUT/test.lst as SageMaker's built-in
    image-classification algorithm reads them, and OUT/manifest.json with counts and hashes. OUT is
    there complete or not at all; a data set that is there already is replaced.

    A folder's photos are held out for testing by the hash of their bytes: a photo stays on its side
    when others are added, and a copy of it never gets to the other side.

    \b
    Examples:
      scones data --out data
      scones data --classes bus,train,tractor --other all --out data
      scones data --source ~/Pictures/couriers --out data --to s3://my-bucket/data --dry-run
      scones data --reviewed s3://my-uploads/ground-truth --out data

    \b
    Exit codes:
      0  the data set is there, and staged if that was asked for
      1  something failed; one line on stderr says what
      2  the command was called wrongly
    """  # noqa: D301  click reads \b as a character
    check_replaceable(out)
    folder = Path(source)
    if folder.is_dir():
        collection = from_folder(folder, listed(classes), listed(other), skip_unreadable=skip_unreadable)
        collection = collection._replace(photos=hold_out(collection.photos, test_share))
    else:
        collection = from_archive(find_archive(source, sha256), listed(classes), listed(other))
    with reviewed_in(reviewed) as found:
        if found:
            collection = with_reviewed(collection, found, skip_unreadable=skip_unreadable)
        # test photos first, so that of two copies the one that stays is held out
        photos = without_copies(sorted(collection.photos, key=lambda photo: photo.split))
        copies = len(collection.photos) - len(photos)
        collection = collection._replace(photos=photos)
        counts = count(collection)
        if not dry_run:
            write(out, collection, source if "://" in source else folder.resolve().name)
    for note in collection.left_out:
        click.echo(f"left out: {note}", err=True)
    if copies:
        click.echo(f"left out: {copies:,} copies of others", err=True)
    staged = None if dry_run or not to else staged_at(out, to)
    if as_json:
        told = {"out": str(out), "to": to, "dry_run": dry_run, "photos": counts, "copies_left_out": copies}
        click.echo(json.dumps(told | {"staged": staged and staged._asdict()}))
        return
    would = "would be written: " if dry_run else ""
    test = describe(counts["test"])
    click.echo(f"{out}: {would}{describe(counts['train'])} to train with, {test} to test with")
    if staged:
        click.echo(
            f"{to}: {staged.uploaded} uploaded, {staged.unchanged} unchanged, {staged.deleted} deleted"
        )
    elif to:
        click.echo(f"{to}: would be made the same as {out}")


def staged_at(out: Path, to: str) -> "Staged":
    """Make what is in S3 the same as the data set."""
    from model.data.staging import stage  # noqa: PLC0415  boto3 takes half a second to import

    return stage(out, to)


@contextmanager
def reviewed_in(source: str | None) -> Iterator["Reviewed | None"]:
    """Have the folder of reviewed photos that ``--reviewed`` names, or, for a while, the photos in S3.

    Raises
    ------
    click.BadParameter
        There is no such folder.
    """
    if source is None:
        yield None
        return
    from model.data.reviewed_photos import Reviewed, fetched  # noqa: PLC0415  boto3 takes half a second to import

    if source.startswith("s3://"):
        with fetched(source) as found:
            yield found
    elif Path(source).is_dir():
        yield Reviewed(Path(source), [])
    else:
        raise click.BadParameter(f"there is no folder {source}", param_hint="--reviewed")


def listed(names: str | None) -> list[str]:
    """Take a list separated by commas apart, each name once."""
    return list(dict.fromkeys(name.strip() for name in (names or "").split(",") if name.strip()))


def describe(counts: Mapping[str, int]) -> str:
    """Put counts in words: ``10 photos (bicycle 6, motorcycle 4)``."""
    return f"{sum(counts.values()):,} photos ({', '.join(f'{label} {n:,}' for label, n in counts.items())})"
