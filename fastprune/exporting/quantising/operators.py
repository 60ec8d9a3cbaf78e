"""Operators with constant weights in an ONNX graph: products and embedding tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

FEWEST = 16
"""Products of fewer inputs or outputs, and tables of fewer rows, stay in float32: they are small."""
HEAD_SHARE = 0.01
"""The last product before an output stays in float32 if it holds at most this share of all weights: a classifier's head."""
PASSED_ON = frozenset(
    {"Add", "Cast", "Div", "Gather", "Identity", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Tanh"}
)
"""Operations between the last product and an output."""


@dataclass(frozen=True, eq=False)
class Operator:
    """A product with constant weights, or the lookup of rows of a constant table.

    Attributes:
        number: Its place in the graph's order, the same in every copy of a graph.
        kind: What it is.
        node: The graph's node: MatMul, Gemm or Gather.
        weights: [inputs, outputs] of a product, [rows, features] of a table.
    """

    number: int
    kind: Literal["product", "table"]
    node: ir.Node
    weights: np.ndarray

    @property
    def input(self) -> ir.Value:
        """The product's input, or the rows' numbers."""
        value = self.node.inputs[0 if self.kind == "product" else 1]
        assert value is not None
        return value


def read_graph(file: str | Path) -> ir.Model:
    """An ONNX model with all its constants as initializers, and without the exporter's notes on every node.

    Raises:
        OSError: The file cannot be read.
    """
    model = ir.load(file)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.ClearMetadataAndDocStringPass()(model)
    return model


def write_graph(model: ir.Model, file: str | Path) -> None:
    """Write an ONNX model without what no output depends on; the model's unused nodes and initializers are removed."""
    common.RemoveUnusedNodesPass()(model)
    ir.save(model, file)


def operators(model: ir.Model) -> tuple[Operator, ...]:
    """The operators worth quantising, in the order of the graph; weights are those of float32 graphs."""
    found = in_float(model)
    total = sum(each.weights.size for each in found)
    heads = {each.number for each in _last(model, found) if each.weights.size <= HEAD_SHARE * total}
    worth = [each for each in found if each.number not in heads and _worth(each)]
    return tuple(Operator(number, each.kind, each.node, each.weights) for number, each in enumerate(worth))


def in_float(model: ir.Model) -> list[Operator]:
    """All operators whose weights are in float32, in the order of the graph."""
    found: list[Operator] = []
    for node in model.graph:
        weights = _product_weights(node)
        kind: Literal["product", "table"] = "table" if weights is None else "product"
        weights = _table(node) if weights is None else weights
        if weights is not None:
            found.append(Operator(len(found), kind, node, weights))
    return found


def stored(graph: ir.Graph, source: ir.Value | None, part: str, numbers: np.ndarray) -> ir.Value:
    """An initializer made of another; the same one for equal numbers, of layers that share their weights.

    Args:
        graph: The graph, which gets it.
        source: The initializer that the numbers come from.
        part: What they are of it, for the name.
        numbers: The numbers.
    """
    stem = f"{source.name if source else ''}.{part}"
    name, held = stem, graph.initializers.get(stem)
    while held is not None:
        if np.array_equal(np.asarray(held.const_value), numbers):
            return held
        name = f"{stem}.{len(graph.initializers)}"
        held = graph.initializers.get(name)
    made = ir.val(name, const_value=ir.tensor(np.ascontiguousarray(numbers), name=name))
    graph.register_initializer(made)
    return made


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant value, also behind a Transpose; None for other values."""
    if value is None:
        return None
    if value.const_value is not None and not value.is_graph_input():
        return np.asarray(value.const_value.numpy())
    made = value.producer()
    if made is not None and made.op_type == "Transpose" and _own(made):
        whole = constant(made.inputs[0])
        order = made.attributes.get("perm")
        return None if whole is None else whole.transpose(order.as_ints() if order else None)
    return None


def number_of(node: ir.Node, attribute: str, default: float) -> float:
    """The value of a node's numeric attribute."""
    found: Any = node.attributes.get(attribute)
    return default if found is None else found.value


def _own(node: ir.Node) -> bool:
    return node.domain in ("", "ai.onnx")


def _product_weights(node: ir.Node) -> np.ndarray | None:
    """The weights of a product, [inputs, outputs], float32; None for other nodes."""
    if not _own(node) or node.op_type not in ("MatMul", "Gemm"):
        return None
    given: Mapping[str, float] = {"alpha": 1, "beta": 1, "transA": 0}
    if any(number_of(node, name, usual) != usual for name, usual in given.items()):
        return None
    weights = constant(node.inputs[1])
    if weights is None or weights.ndim != 2 or weights.dtype != np.float32:
        return None
    return weights.T if number_of(node, "transB", 0) else weights


def _table(node: ir.Node) -> np.ndarray | None:
    """The rows of a lookup, float32; None for other nodes."""
    if not _own(node) or node.op_type != "Gather" or number_of(node, "axis", 0) != 0:
        return None
    rows = constant(node.inputs[0])
    fits = rows is not None and rows.ndim == 2 and rows.dtype == np.float32 and constant(node.inputs[1]) is None
    return rows if fits else None


def _worth(operator: Operator) -> bool:
    sizes = operator.weights.shape if operator.kind == "product" else operator.weights.shape[:1]
    return bool(min(sizes) >= FEWEST)


def _last(model: ir.Model, found: list[Operator]) -> list[Operator]:
    """The products that an output depends on without another product or a norm between them."""
    by_node = {each.node: each for each in found if each.kind == "product"}
    last, waiting, seen = [], [value.producer() for value in model.graph.outputs], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in by_node:
            last.append(by_node[node])
        elif node.op_type in PASSED_ON:
            waiting.extend(value.producer() for value in node.inputs if value is not None)
    return last
