"""Hundreds of bad files and odd names each get one documented outcome, and none fails an execution."""

import itertools
import time

import pytest

from tests import bad_photos, photos
from tests.photo_ledger import PhotoLedger, open_ledger, record_balance

SAMPLE = 40
"""`make test` uploads one file in this many."""
MAX_IN_PROGRESS = 300
"""Photos in progress at a time, because the emulator processes one after another."""


def upload(ledger: PhotoLedger, files: dict[str, bytes]) -> None:
    for number, (name, file) in enumerate(files.items(), 1):
        ledger.send(f"{ledger.prefix}{name}", file)
        if number % MAX_IN_PROGRESS == 0:
            ledger.settle()


@pytest.mark.parametrize("every", [SAMPLE, pytest.param(1, marks=pytest.mark.verify)])
def test_every_bad_file_gets_one_outcome(every, stack):
    with open_ledger(stack, f"uploads/bad/{time.time_ns()}/") as ledger:
        upload(ledger, dict(itertools.islice(bad_photos.corpus(), 0, None, every)))

        balance = ledger.settle()

    if every == 1:
        record_balance(balance, bad_files=len(balance.sent))
    balance.assert_complete()


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.verify)])
def test_every_odd_name_gets_one_outcome(every, stack):
    names = dict.fromkeys(itertools.islice(bad_photos.odd_names(), 0, None, every))
    with open_ledger(stack, "uploads/") as ledger:
        for name in names:
            ledger.send(f"uploads/{name}", photos.photo())

        balance = ledger.settle()

    if every == 1:
        record_balance(balance, odd_names=len(balance.sent))
    assert set(balance.outcomes.values()) == {"needs_review"}
    balance.assert_complete()
