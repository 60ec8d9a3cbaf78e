"""Filters apart: FFN filters with large states are computed in products of their own, which stay in float32.

One scale for all states of a batch must reach the largest; a few filters reach several times as far as all others. The products
on both sides of the activation function are split: y = act(x A + a) B = act(x A' + a') B' + act(x A'' + a'') B''.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from fastprune.exporting.quantising.operators import Operator, constant, number_of, operators, stored

ELEMENTWISE = frozenset(
    {
        *("Abs", "Add", "BiasGelu", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "FastGelu", "Gelu", "HardSigmoid"),
        *("HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "QuickGelu", "Relu"),
        *("Selu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Swish", "Tanh"),
    }
)
"""Operations of which each output depends on the input at the same place alone."""


@dataclass(frozen=True, eq=False)
class Filters:
    """The filters between two products.

    Attributes:
        after: The product that reads the filters' states.
        before: The products that they come from: one, or two with a gate.
        between: The nodes between them, in the order of the graph, with the products before.
    """

    after: Operator
    before: tuple[Operator, ...]
    between: tuple[ir.Node, ...]

    @property
    def count(self) -> int:
        """Number of filters."""
        return int(self.after.weights.shape[0])


def filters_of(model: ir.Model) -> tuple[Filters, ...]:
    """The filters of each product that reads states of one activation function and nothing else."""
    products = {each.node: each for each in operators(model) if each.kind == "product"}
    places = {node: place for place, node in enumerate(model.graph)}
    found = (_traced(each, products, places) for each in products.values())
    return tuple(each for each in found if each)


def apart(model: ir.Model, chosen: Mapping[int, Iterable[int]]) -> ir.Model:
    """A copy of a float32 graph with some filters in products of their own; its outputs are the same.

    Args:
        model: The graph; it is not changed.
        chosen: Filters by the number of the product that reads their states.
    """
    copy = model.clone()
    for each in filters_of(copy):
        picked = np.zeros(each.count, dtype=bool)
        picked[list(chosen.get(each.after.number, ()))] = True
        if picked.any() and not picked.all():
            _split(copy.graph, each, picked)
    return copy


def _traced(after: Operator, products: Mapping[ir.Node, Operator], places: Mapping[ir.Node, int]) -> Filters | None:
    width, before, between = after.weights.shape[0], [], set()
    waiting: list[ir.Value] = [after.input]
    readers: set[ir.Node] = {after.node}
    while waiting:
        node = waiting.pop().producer()
        if node is None:
            return None
        if node in between:
            continue
        between.add(node)
        if node in products and products[node].weights.shape[1] == width:
            before.append(products[node])
            continue
        if node.op_type not in ELEMENTWISE or node.op_type == "Dropout":
            return None
        for value in node.inputs:
            fixed = constant(value)
            if value is None or (fixed is not None and (fixed.size == 1 or fixed.shape[-1] == width)):
                continue
            if fixed is not None:
                return None
            waiting.append(value)
    readers |= between
    inside = all(set(value.consumers()) <= readers for node in between for value in node.outputs)
    if (
        not before
        or len(between) == len(before)
        or not inside
        or any(v.is_graph_output() for n in between for v in n.outputs)
    ):
        return None
    return Filters(after, tuple(before), tuple(sorted(between, key=places.__getitem__)))


def _split(graph: ir.Graph, filters: Filters, picked: np.ndarray) -> None:
    """Replace the nodes by two copies, of the filters that are not picked and of those that are, and add what both give."""
    made, after = tape.Tape(), filters.after
    parts = []
    for part, which in (("most", ~picked), ("apart", picked)):
        copied: dict[ir.Value, ir.Value] = {}
        for node in filters.between:
            values = [_part(graph, node, value, copied, which, part) for value in node.inputs]
            copied[node.outputs[0]] = made.op(node.op_type, values, dict(node.attributes), domain=node.domain)
        weights = after.weights[which]
        values = [copied[after.input], stored(graph, after.node.inputs[1], part, weights)]
        parts.append(made.op("MatMul", values))
    found = made.op("Add", parts)
    if after.node.op_type == "Gemm" and len(after.node.inputs) > 2:
        found = made.op("Add", [found, after.node.inputs[2]])
    graph.insert_before(after.node, made.nodes)
    old = after.node.outputs[0]
    found.shape, found.type = old.shape, old.type
    old.replace_all_uses_with(found, replace_graph_outputs=True)
    graph.remove([after.node, *reversed(filters.between)], safe=True)


def _part(
    graph: ir.Graph,
    node: ir.Node,
    value: ir.Value | None,
    copied: Mapping[ir.Value, ir.Value],
    which: np.ndarray,
    part: str,
) -> ir.Value | None:
    """The input of a copied node: a copied state, or the part of a constant that belongs to its filters."""
    if value is None or value in copied:
        return None if value is None else copied[value]
    fixed = constant(value)
    if fixed is None or fixed.size == 1:
        return value
    rows = node.op_type == "Gemm" and fixed.ndim == 2 and number_of(node, "transB", 0)
    return stored(graph, value, part, fixed[which] if rows else fixed[..., which])
