"""``scones data``: build a data set of labelled photos, on disk and in S3."""

from collections.abc import Mapping
from pathlib import Path

import click

from model import storage
from model.data.builder import CIFAR_100, build
from model.labels import split_labels
from model.terminal.options import dry_run_option, json_option
from model.terminal.output import echo, echo_json


def _check_reviewed(_ctx: click.Context, _option: click.Parameter, source: str | None) -> str | None:
    if source is not None and not storage.is_s3(source) and not Path(source).is_dir():
        raise click.BadParameter(f"No such folder: {source}")
    return source


@click.command("data")
@click.option(
    "--source",
    default=CIFAR_100,
    help="CIFAR-100's archive, its address, or a folder with a sub-folder of photos for each label.",
)
@click.option(
    "--classes",
    help="Labels, separated by commas.  [default: all of a folder; of CIFAR-100 bicycle,motorcycle]",
)
@click.option(
    "--other",
    help="Classes whose photos are labelled `other`, separated by commas, or `all` for all the rest.",
)
@click.option(
    "--reviewed",
    metavar="FOLDER|S3-URI",
    callback=_check_reviewed,
    help="Reviewed photos that join the training photos: a folder like --source, or the stack's "
    "GroundTruthUri, to which `scones review` writes.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--to", help="Where to stage the data set in S3: s3://bucket/prefix.")
@click.option(
    "--test-share",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    help="Share of a folder's photos to hold out for testing. (CIFAR-100 has its own test photos.)",
)
@click.option("--skip-unreadable", is_flag=True, help="Skip photos that cannot be read, and list them.")
@click.option("--sha256", help="The expected SHA-256 of the archive.")
@dry_run_option
@json_option
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
    image-classification algorithm reads them, and OUT/manifest.json with counts and hashes. An
    existing data set in OUT is replaced once the new one is complete.

    A folder's photos are split by the hash of their bytes: a photo stays in its split when others are
    added, and a copy of it is never in the other split.

    \b
    Examples:
      scones data --out data
      scones data --classes bus,train,tractor --other all --out data
      scones data --source ~/Pictures/couriers --out data --to s3://my-bucket/data --dry-run
      scones data --reviewed s3://my-uploads/ground-truth --out data

    \b
    Exit codes:
      0  the data set is written, and staged if requested
      1  something failed; one line on stderr says what
      2  usage error
    """  # noqa: D301  click reads \b as a character
    built = build(
        source,
        out,
        classes=_split_names(classes),
        other=_split_names(other),
        reviewed=reviewed,
        test_share=test_share,
        sha256=sha256,
        skip_unreadable=skip_unreadable,
        dry_run=dry_run,
    )
    for file in built.skipped:
        echo(f"skipped: {file}", err=True)
    if built.duplicates:
        echo(f"skipped: {built.duplicates:,} duplicates", err=True)
    staged = None
    if to and not dry_run:
        from model.data.staging import stage  # noqa: PLC0415  boto3 takes half a second to import

        staged = stage(out, to)
    if as_json:
        result = {
            "out": str(out),
            "to": to,
            "dry_run": dry_run,
            "photos": built.counts,
            "copies_left_out": built.duplicates,
            "staged": staged and staged._asdict(),
        }
        echo_json(result)
        return
    train, test = (_format_counts(built.counts[split]) for split in ("train", "test"))
    echo(f"{out}: {'would contain ' if dry_run else ''}{train} for training, {test} for testing")
    if staged:
        echo(f"{to}: {staged.uploaded} uploaded, {staged.unchanged} unchanged, {staged.deleted} deleted")
    elif to:
        echo(f"{to}: would be made identical to {out}")


def _split_names(names: str | None) -> list[str]:
    return [name for name in dict.fromkeys(split_labels(names or "")) if name]


def _format_counts(counts: Mapping[str, int]) -> str:
    """Format counts by label: ``10 photos (bicycle 6, motorcycle 4)``."""
    return f"{sum(counts.values()):,} photos ({', '.join(f'{label} {n:,}' for label, n in counts.items())})"
