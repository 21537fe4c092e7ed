"""Ask a model which vehicle is in a photo."""

import hashlib
import importlib.metadata
import os
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import onnxruntime
import platformdirs

from model.network import artifact
from model.network.artifact import ArtifactError, Description
from model.photo import read_pixels


class Classifier:
    """A loaded model; any number of threads may ask it at once.

    Parameters
    ----------
    folder
        Where ``model.onnx`` and ``model.json`` are.
    threads
        How many threads work on one answer; by default as many as there are cores.

    Attributes
    ----------
    description
        What the model says of itself: labels, threshold, input size and more.

    Raises
    ------
    ArtifactError
        If a file is missing or damaged, or the graph does not fit its description.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.description = artifact.check(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.process_cpu_count() or 1
        # threads that spin while they wait take the cores from whatever else runs here, answers included
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = folder / artifact.GRAPH
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        _check_shapes(self._session, self.description)

    @classmethod
    def load(cls, path: Path | None = None, threads: int | None = None) -> Self:
        """Load a model from wherever it is.

        Parameters
        ----------
        path
            A model's folder, a ``model.tar.gz``, or a folder that holds one. By default the ready-made
            zero-shot model, made on first use (in a few seconds) and kept in the user's cache folder.
        threads
            As of `Classifier`.

        Raises
        ------
        ArtifactError
            If it cannot be loaded.
        """
        if path is None:
            return cls._load_ready_made(threads)
        with artifact.unpacked(path) as folder:
            return cls(folder, threads)

    @classmethod
    def _load_ready_made(cls, threads: int | None) -> Self:
        folder = platformdirs.user_cache_path("scones-unlimited") / f"zero-shot-{_recipe()}"
        try:
            return cls(folder, threads)
        except ArtifactError:  # not made yet, or damaged since
            from model.network import zero_shot  # noqa: PLC0415  onnx, which it needs, takes half a second to import

            try:
                zero_shot.make(folder)
            except OSError as error:
                raise ArtifactError(
                    f"{folder} cannot be written, set XDG_CACHE_HOME to a folder that can: {error}"
                ) from error
            return cls(folder, threads)

    def classify(self, photo: bytes) -> list[float]:
        """Give the probability of each label for one photo.

        Parameters
        ----------
        photo
            The bytes of an image file, of any size.

        Returns
        -------
        list of float
            In the order of the labels, adding up to 1.

        Raises
        ------
        PhotoError
            If the bytes cannot be read as a photo.
        """
        pixels = read_pixels(photo, self.description.input_size)
        probabilities: list[float] = self.probabilities(pixels[np.newaxis])[0].tolist()
        return probabilities

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Give the probabilities for pixels, uint8 RGB [N, size, size, 3], as float32 [N, labels]."""
        (answer,) = self._session.run(["probabilities"], {"image": pixels})
        return np.asarray(answer, np.float32)

    def features(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Give the photos' places in the model's feature space, for pixels as above: float32 [N, D]."""
        (answer,) = self._session.run(["features"], {"image": pixels})
        return np.asarray(answer, np.float32)


def _check_shapes(session: onnxruntime.InferenceSession, description: Description) -> None:
    size, labels = description.input_size, len(description.labels)
    shapes = {value.name: value.shape[1:] for value in (*session.get_inputs(), *session.get_outputs())}
    if (shapes.get("image"), shapes.get("probabilities")) != ([size, size, 3], [labels]):
        raise ArtifactError(
            f"the graph should give {labels} probabilities for {size} x {size} pixels: {shapes}"
        )


def _recipe() -> str:
    """Hash all that decides what the ready-made model is, so that a change of any of it makes a new one."""
    recipe = hashlib.sha256()
    for source in ("artifact.py", "backbone.py", "embedding.py", "onnx_graph.py", "zero_shot.py"):
        recipe.update(Path(__file__).with_name(source).read_bytes())
    for package in ("numpy", "onnx"):
        recipe.update(importlib.metadata.version(package).encode())
    return recipe.hexdigest()[:16]
