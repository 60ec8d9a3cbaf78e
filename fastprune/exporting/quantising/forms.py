"""Forms of a quantised operator: what its node in the ONNX graph is replaced by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from fastprune.exporting.quantising.operators import Operator, operators, stored
from fastprune.exporting.quantising.rounding import BLOCK, Blocks, rounded_blocks, rounded_outputs, rounded_rows

CONTRIB = "com.microsoft"


class Form(ABC):
    """A form of an operator."""

    @property
    @abstractmethod
    def told(self) -> str:
        """Operators of this form, in words, behind their number."""

    @abstractmethod
    def build(
        self, graph: ir.Graph, made: tape.Tape, operator: Operator, shared: dict[ir.Value, tuple[ir.Value, ...]]
    ) -> ir.Value:
        """Write the nodes that replace the operator's.

        Args:
            graph: The graph, which gets the weights.
            made: The nodes so far.
            operator: The operator in float32.
            shared: Quantised inputs that several products share, by the input.

        Returns:
            The output; a product's without bias.
        """


@dataclass(frozen=True)
class Dynamic(Form):
    """A product of 8-bit integers: weights with a scale per output, inputs with one scale for the batch."""

    @property
    def told(self) -> str:
        return "products in 8 bits"

    def build(
        self, graph: ir.Graph, made: tape.Tape, operator: Operator, shared: dict[ir.Value, tuple[ir.Value, ...]]
    ) -> ir.Value:
        given = operator.input
        if given not in shared:
            shared[given] = tuple(made.op_multi_out("DynamicQuantizeLinear", [given], num_outputs=3))
        numbers, scale, middle = shared[given]
        rounded, scales = rounded_outputs(operator.weights)
        weights = _stored(graph, operator, "int8", rounded)
        none = _stored(graph, operator, "zero", np.zeros((), dtype=np.int8))
        sums = made.op("MatMulInteger", [numbers, weights, middle, none])
        scaled = made.op("Mul", [scale, _stored(graph, operator, "scale", scales)])
        return made.op("Mul", [made.op("Cast", [sums], {"to": ir.DataType.FLOAT.value}), scaled])


@dataclass(frozen=True, eq=False)
class InBlocks(Form):
    """A product with weights in blocks of 32 inputs, each with a scale, and inputs in float32.

    Attributes:
        blocks: The weights; None: 8 bits, rounded to the nearest.
    """

    blocks: Blocks | None = None

    @property
    def told(self) -> str:
        return f"products with {self.blocks.bits if self.blocks else 8}-bit weights and float32 inputs"

    def build(
        self, graph: ir.Graph, made: tape.Tape, operator: Operator, shared: dict[ir.Value, tuple[ir.Value, ...]]
    ) -> ir.Value:
        blocks = self.blocks or rounded_blocks(operator.weights, 8)
        outputs, inputs = blocks.numbers.shape
        stored = {"int": blocks.packed(), "scale": blocks.scales.reshape(-1)}
        values = [_stored(graph, operator, f"{name}{blocks.bits}", each) for name, each in stored.items()]
        sizes = {"K": inputs, "N": outputs, "bits": blocks.bits, "block_size": BLOCK}
        return made.op("MatMulNBits", [operator.input, *values], sizes, domain=CONTRIB)


@dataclass(frozen=True)
class Rows(Form):
    """A table of 8-bit integers with a scale per row, in standard operations."""

    @property
    def told(self) -> str:
        return "tables in 8 bits"

    def build(
        self, graph: ir.Graph, made: tape.Tape, operator: Operator, shared: dict[ir.Value, tuple[ir.Value, ...]]
    ) -> ir.Value:
        numbers, scales = rounded_rows(operator.weights)
        found = made.op("Gather", [_stored(graph, operator, "int8", numbers), operator.input])
        scale = made.op("Gather", [_stored(graph, operator, "scale", scales), operator.input])
        return made.op("Mul", [made.op("Cast", [found], {"to": ir.DataType.FLOAT.value}), scale])


@dataclass(frozen=True)
class RowsInBlocks(Form):
    """A table of 4-bit integers with a scale for every 32 features of a row."""

    @property
    def told(self) -> str:
        return "tables in 4 bits"

    def build(
        self, graph: ir.Graph, made: tape.Tape, operator: Operator, shared: dict[ir.Value, tuple[ir.Value, ...]]
    ) -> ir.Value:
        blocks = rounded_blocks(operator.weights.T, 4)
        rows, features = operator.weights.shape
        numbers = blocks.packed().reshape(rows, -1)[:, : features // 2]
        values = [
            _stored(graph, operator, "int4", numbers),
            operator.input,
            _stored(graph, operator, "scale", blocks.scales),
        ]
        sizes = {"bits": 4, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
        return made.op("GatherBlockQuantized", values, sizes, domain=CONTRIB)


def quantised(model: ir.Model, forms: Mapping[int, Form]) -> ir.Model:
    """A copy of a float32 graph with some of its operators in other forms.

    Args:
        model: The graph; it is not changed.
        forms: Forms by the operators' numbers; the others stay in float32.
    """
    copy = model.clone()
    shared: dict[ir.Value, tuple[ir.Value, ...]] = {}
    for operator in operators(copy):
        if operator.number in forms:
            _replace(copy.graph, operator, forms[operator.number], shared)
    copy.graph.opset_imports.setdefault(CONTRIB, 1)
    return copy


def _replace(graph: ir.Graph, operator: Operator, form: Form, shared: dict[ir.Value, tuple[ir.Value, ...]]) -> None:
    node, made = operator.node, tape.Tape()
    found = form.build(graph, made, operator, shared)
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if bias is not None:
        found = made.op("Add", [found, bias])
    graph.insert_before(node, made.nodes)
    name, old = node.outputs[0].name, node.outputs[0]
    found.shape, found.type = old.shape, old.type
    old.replace_all_uses_with(found, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    found.name = name


def _stored(graph: ir.Graph, operator: Operator, part: str, numbers: np.ndarray) -> ir.Value:
    return stored(graph, operator.node.inputs[1 if operator.kind == "product" else 0], part, numbers)
