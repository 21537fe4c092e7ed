"""Build ONNX graphs layer by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.utils
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 10

type Shape = Sequence[int | str]


class Graph:
    """An ONNX graph under construction. Methods that add a layer return the name of its output."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._inputs: dict[str, onnx.ValueInfoProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def input(self, name: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> str:
        """Declare an input; a dimension may be a name, such as ``N``."""
        self._inputs[name] = helper.make_tensor_value_info(name, dtype, shape)
        return name

    def constant(self, values: npt.ArrayLike, name: str = "") -> str:
        """Add constant numbers; float64 is stored as float32."""
        array = np.asarray(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = name or f"constant_{len(self._constants)}"
        self._constants[name] = numpy_helper.from_array(
            np.ascontiguousarray(array).reshape(array.shape), name
        )
        return name

    def add(
        self,
        operator: str,
        *inputs: str | npt.NDArray[Any] | float,
        output: str = "",
        **attributes: Any,  # noqa: ANN401  ONNX's attributes are of many types
    ) -> str:
        """Add a layer: an ONNX operator (https://onnx.ai/onnx/operators/) with its attributes.

        An input is another layer's output by name, ``""`` for an omitted one, or numbers.
        """
        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        output = output or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, names, [output], output, **attributes))
        return output

    def model(self, outputs: Mapping[str, Shape]) -> onnx.ModelProto:
        """Finish a model that holds only what these float32 outputs, by name with their shapes, need."""
        declared = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()
        ]
        graph = helper.make_graph(
            self._nodes, self._name, list(self._inputs.values()), declared, list(self._constants.values())
        )
        whole = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        return onnx.utils.Extractor(whole).extract_model(list(self._inputs), list(outputs))
