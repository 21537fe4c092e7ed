"""Classify photos with a model loaded from disk."""

import hashlib
import importlib.metadata
import os
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import onnxruntime

from model.cache import cache_folder
from model.network import artifact
from model.network.artifact import ArtifactError, Description
from model.photo import read_pixels


class Classifier:
    """A model loaded from its folder; it is safe to use from several threads.

    One prediction is computed by `threads`, by default one for each core. Raises `ArtifactError` if a file is
    missing or damaged, or the graph does not match its description.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.description = artifact.check(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.process_cpu_count() or 1
        # threads that spin while they wait take the cores from other predictions
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = folder / artifact.GRAPH
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        _check_shapes(self._session, self.description)

    @classmethod
    def load(cls, path: Path | None = None, threads: int | None = None) -> Self:
        """Load a model from its folder, a ``model.tar.gz``, or a folder that contains one.

        The default is the zero-shot model, which is built on first use (in a few seconds) and cached in the
        user's cache folder. Raises `ArtifactError` if the model cannot be loaded.
        """
        if path is None:
            return cls._load_zero_shot(threads)
        with artifact.unpacked(path) as folder:
            return cls(folder, threads)

    @classmethod
    def _load_zero_shot(cls, threads: int | None) -> Self:
        folder = cache_folder() / f"zero-shot-{_recipe()}"
        try:
            return cls(folder, threads)
        except ArtifactError:  # not built yet, or damaged
            from model.network import zero_shot  # noqa: PLC0415  it imports onnx, which takes half a second

            try:
                zero_shot.make(folder)
            except OSError as error:
                raise ArtifactError(
                    f"{folder} cannot be written: {error}. Set XDG_CACHE_HOME to a writable folder."
                ) from error
            return cls(folder, threads)

    def classify(self, photo: bytes) -> list[float]:
        """Return the probability of each label for the bytes of an image file.

        Raises `PhotoError` if the bytes cannot be read as a photo.
        """
        pixels = read_pixels(photo, self.description.input_size)
        probabilities: list[float] = self.probabilities(pixels[np.newaxis])[0].tolist()
        return probabilities

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the probabilities for pixels, uint8 RGB [N, size, size, 3]: float32 [N, labels]."""
        return self._run("probabilities", pixels)

    def features(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return feature vectors for pixels, uint8 RGB [N, size, size, 3]: float32 [N, length]."""
        return self._run("features", pixels)

    def _run(self, output: str, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        (values,) = self._session.run([output], {"image": pixels})
        return np.asarray(values, np.float32)


def _check_shapes(session: onnxruntime.InferenceSession, description: Description) -> None:
    size, labels = description.input_size, len(description.labels)
    shapes = {value.name: value.shape[1:] for value in (*session.get_inputs(), *session.get_outputs())}
    if (shapes.get("image"), shapes.get("probabilities")) != ([size, size, 3], [labels]):
        raise ArtifactError(
            f"The graph should have {labels} probabilities for {size} x {size} pixels, but has: {shapes}"
        )


def _recipe() -> str:
    """Hash everything that the zero-shot model is built from, so that it is rebuilt after a change."""
    recipe = hashlib.sha256()
    for source in ("artifact.py", "backbone.py", "embedding.py", "onnx_graph.py", "zero_shot.py"):
        recipe.update(Path(__file__).with_name(source).read_bytes())
    for package in ("numpy", "onnx"):
        recipe.update(importlib.metadata.version(package).encode())
    return recipe.hexdigest()[:16]
