"""The inference server with a slow model: ``python -m tests.slow_endpoint PHOTOS_PER_SECOND PORT``."""

import os
import sys
import time

import uvicorn

from model.serving.app import create_app
from model.serving.listener import listen


class SlowModel:
    """Stands in for the classifier: an answer takes time, but no processor."""

    def __init__(self, photos_per_second: float) -> None:
        self._seconds = (os.process_cpu_count() or 1) / photos_per_second

    def classify(self, photo: bytes) -> list[float]:
        time.sleep(self._seconds)
        return [0.93, 0.05, 0.02]


if __name__ == "__main__":
    with listen("127.0.0.1", int(sys.argv[2])) as listener:
        app = create_app(SlowModel(float(sys.argv[1])))  # type: ignore[arg-type]
        sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[listener])
