"""Coverage-guided fuzzing of serialize: ``make fuzz``.

atheris (libFuzzer for Python) mutates the seeds of `tests.bad_photos`. A file without a documented outcome is
written to ``.local/fuzz/crash-…``; add such files to `tests.bad_photos`.
"""

import io
import sys
from pathlib import Path
from typing import get_args

import atheris

with atheris.instrument_imports(include=["functions", "PIL"]):
    from functions.serialize.photo import Reason, RejectedError, serialize

from tests import bad_photos
from tests.photo_ledger import record_figures

FOLDER = Path(__file__).parents[1] / ".local" / "fuzz"
REASONS = get_args(Reason.__value__)
MAX_LENGTH = 20_000
"""The largest file in bytes, including seeds."""
BOX = 224


def one_outcome(content: bytes) -> None:
    """Fail unless a file is serialized, or rejected for a documented reason."""
    try:
        answer = serialize(io.BytesIO(content), BOX)
    except RejectedError as rejection:
        reason = rejection.reason
    else:
        assert answer.keys() == {"image_data", "content_type", "width", "height"}
        return
    assert reason in REASONS


def main() -> None:
    seeds = FOLDER / "seeds"
    seeds.mkdir(parents=True, exist_ok=True)
    for name, content in bad_photos.seeds().items():
        if len(content) <= MAX_LENGTH:
            (seeds / name.replace("/", "-")).write_bytes(content)
    (runs,) = sys.argv[1:]
    record_figures(fuzzed_files=int(runs))
    limits = [f"-runs={runs}", f"-max_len={MAX_LENGTH}", "-timeout=30", "-rss_limit_mb=1024", "-seed=1"]
    atheris.Setup(
        [sys.argv[0], *limits, f"-artifact_prefix={FOLDER}/", "-print_final_stats=1", str(seeds)], one_outcome
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
