"""Rounding in stages: each product is rounded for the inputs that the operators rounded before it give, toward the dense graph.

The graph runs in segments, one behind the other, in float32 and with rounded weights, so that all stages together run it twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor

from fastprune.exporting.quantising.error_feedback import fed_back
from fastprune.exporting.quantising.operators import Operator, number_of
from fastprune.exporting.quantising.rounding import Blocks
from fastprune.progress import track

Values = dict[str, np.ndarray]
"""Tensors of a batch by name."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Products of one input.

    Attributes:
        products: The products.
        start: Place of the first one's node in the graph.
    """

    products: tuple[Operator, ...]
    start: int


def rounded_in_stages(
    model: ir.Model, found: Sequence[Operator], tables: Mapping[int, np.ndarray], rows: Sequence[Values]
) -> dict[int, Blocks]:
    """The products of a graph in 4 bits, by their numbers.

    Args:
        model: The graph in float32.
        found: Its operators.
        tables: Rounded tables by their numbers, [rows, features].
        rows: All inputs of the graph by name, batch by batch.
    """
    stages = _stages(model, found)
    runs = [_Run(model, [dict(each) for each in rows]) for _ in range(2)]
    dense, rounded = runs
    for each in found:
        if each.number in tables:
            rounded.replace(each, tables[each.number])
    made: dict[int, Blocks] = {}
    for stage in track(stages, "rounding"):
        for run in runs:
            run.advance(stage.start)
        name = str(stage.products[0].input.name)
        moments, cross, tokens = _moments(rounded.state(name), dense.state(name), rows)
        for product in stage.products:
            blocks = fed_back(product.weights, moments, cross, tokens, 4)
            rounded.replace(product, blocks.weights)
            made[product.number] = blocks
    return made


def _stages(model: ir.Model, found: Sequence[Operator]) -> list[Stage]:
    places = {node: place for place, node in enumerate(model.graph)}
    by_input: dict[ir.Value, list[Operator]] = {}
    for each in found:
        if each.kind == "product":
            by_input.setdefault(each.input, []).append(each)
    stages = [Stage(tuple(each), min(places[one.node] for one in each)) for each in by_input.values()]
    return sorted(stages, key=lambda stage: stage.start)


def _moments(
    after: Sequence[np.ndarray], before: Sequence[np.ndarray], rows: Sequence[Values]
) -> tuple[Tensor, Tensor, int]:
    """X'^T X' and X'^T X, float64, of the rounded graph's X' and the dense graph's X, and the number of tokens without padding."""
    sums: list[Tensor] = []
    tokens = 0
    for found, dense, batch in zip(after, before, rows, strict=True):
        ours, theirs = (_tokens(each, batch) for each in (found, dense))
        new = [(ours.T @ ours).double(), (ours.T @ theirs).double()]
        sums = [one + other for one, other in zip(sums, new, strict=True)] if sums else new
        tokens += len(ours)
    return sums[0], sums[1], tokens


def _tokens(states: np.ndarray, batch: Values) -> Tensor:
    """States [samples, tokens, features] without padding, or of any other shape, as [tokens, features]."""
    mask = batch.get("attention_mask")
    if mask is not None and states.ndim == 3 and states.shape[:2] == mask.shape:
        states = states[mask.astype(bool)]
    return torch.from_numpy(states.reshape(-1, states.shape[-1]))


@dataclass
class _Run:
    """A graph that runs in segments on all batches.

    Attributes:
        model: The graph; only its copy as a protobuf message is changed.
        values: What later nodes read, batch by batch.
        place: The next node.
    """

    model: ir.Model
    values: list[Values]
    place: int = 0
    proto: onnx.ModelProto = field(init=False)
    weights: dict[str, onnx.TensorProto] = field(init=False)

    def __post_init__(self) -> None:
        self.proto = ir.to_proto(self.model)
        self.weights = {each.name: each for each in self.proto.graph.initializer}

    def replace(self, operator: Operator, weights: np.ndarray) -> None:
        """Give an operator other weights, [inputs, outputs] of a product, [rows, features] of a table."""
        place = list(self.model.graph).index(operator.node)
        node = self.proto.graph.node[place]
        name = f"rounded.{operator.number}"
        turned = weights.T if number_of(operator.node, "transB", 0) else weights
        self.weights[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(turned), name)
        node.input[1 if operator.kind == "product" else 0] = name

    def state(self, name: str) -> list[np.ndarray]:
        """A value that was computed, batch by batch."""
        return [each[name] for each in self.values]

    def advance(self, stop: int) -> None:
        """Run the nodes up to a place."""
        nodes = self.proto.graph.node
        segment, later = nodes[self.place : stop], nodes[stop:]
        self.place = stop
        if not segment:
            return
        needed = {name for node in later for name in node.input} | {each.name for each in self.proto.graph.output}
        made = {name for node in segment for name in node.output if name}
        read = {name for node in segment for name in node.input if name}
        outputs = sorted(made & needed)
        inputs = sorted(read - made - set(self.weights))
        session = self._session(
            segment, [self.weights[name] for name in sorted(read & set(self.weights))], inputs, outputs
        )
        for each in self.values:
            found = session.run(outputs, {name: each[name] for name in inputs})
            each.update(zip(outputs, found, strict=True))
            for name in set(each) - needed:
                del each[name]

    def _session(
        self,
        nodes: Sequence[onnx.NodeProto],
        weights: Sequence[onnx.TensorProto],
        inputs: Sequence[str],
        outputs: Sequence[str],
    ) -> onnxruntime.InferenceSession:
        types = {name: onnx.helper.np_dtype_to_tensor_dtype(self.values[0][name].dtype) for name in inputs}
        graph = onnx.helper.make_graph(
            nodes,
            "segment",
            [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in types.items()],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            weights,
        )
        made = onnx.helper.make_model(
            graph,
            opset_imports=self.proto.opset_import,
            ir_version=self.proto.ir_version,
            functions=self.proto.functions,
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # outputs have no types here
        return onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
