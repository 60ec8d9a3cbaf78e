"""Simpler ONNX graphs with the same outputs: fewer reshapes, q, k and v as one product, the last layer on the first token only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastprune.exporting.attention import OPERATOR

if TYPE_CHECKING:
    import onnx_ir

ROW_BY_ROW = frozenset(
    (
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Gelu",
        "Erf",
        "Tanh",
        "Relu",
        "Sigmoid",
        "Softplus",
        "Sqrt",
        "Pow",
        "Neg",
        "Cast",
        "Identity",
    )
)
"""Operators that compute each token's features from this token alone; further ones depend on their inputs."""
TOKENS = 1
"""The dimension of tokens in [samples, tokens, features]."""


def simplify(model: onnx_ir.Model) -> None:
    """Simplify the graph of a model whose attentions are single operators, in place."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    skip_reshapes(model.graph)
    RemoveUnusedNodesPass()(model)  # whose reading hides that only the first token is read
    keep_first_token(model.graph)
    merge_products(model.graph)
    keep_norms_apart(model.graph)
    RemoveUnusedNodesPass()(model)
    name_weights(model.graph)


def skip_reshapes(graph: onnx_ir.Graph) -> None:
    """Connect what reads a reshaped value to the value before, where a chain of reshapes ends with the first shape."""
    for node in list(graph):
        if node.op_type != "Reshape":
            continue
        made, source = node.outputs[0], node.inputs[0]
        while source is not None and not _same_shape(source, made):
            producer = source.producer()
            source = producer.inputs[0] if producer is not None and producer.op_type == "Reshape" else None
        if source is not None and not made.is_graph_output():
            made.replace_all_uses_with(source)


def merge_products(graph: onnx_ir.Graph) -> None:
    """Compute an attention's queries, keys and values by one product with all their weights, where these are constants.

    Queries of other tokens than the keys' are left apart.
    """
    for node in [each for each in graph if each.op_type == OPERATOR]:
        found = [_Projection.of(value) for value in node.inputs[:3] if value is not None]
        last = found[-1]
        parts = [each for each in found if each is not None and last is not None and each.features is last.features]
        if len(parts) > 1:
            _merge(graph, node, parts)


def _merge(graph: Any, node: Any, parts: Sequence[_Projection]) -> None:
    """Replace the inputs ``parts`` of a node, products with the same features, by the parts of one product."""
    import onnx_ir

    weights = [_array(each.weight) for each in parts]  # [features, width] each
    widths = [weight.shape[1] for weight in weights]
    zeros = [np.zeros(width, weights[0].dtype) for width in widths]
    biases = [none if each.bias is None else _array(each.bias) for each, none in zip(parts, zeros, strict=True)]
    stem = _stem(parts, node.name)
    weight = _constant(graph, np.concatenate(weights, axis=1), f"{stem}.weight")
    bias = _constant(graph, np.concatenate(biases), f"{stem}.bias")
    sizes = _constant(graph, np.array(widths), f"{stem}.sizes")
    product = onnx_ir.node("MatMul", [parts[0].features, weight], name=f"{node.name}.MatMul")
    total = onnx_ir.node("Add", [product.outputs[0], bias], name=f"{node.name}.Add")
    split = onnx_ir.node(
        "Split", [total.outputs[0], sizes], {"axis": -1}, num_outputs=len(parts), name=f"{node.name}.Split"
    )
    graph.insert_before(node, [product, total, split])
    like = parts[0].output
    for made in (product.outputs[0], total.outputs[0]):
        made.shape, made.dtype = onnx_ir.Shape([*like.shape[:-1], sum(widths)]), like.dtype
    for made, each in zip(split.outputs, parts, strict=True):
        made.shape, made.dtype = each.output.shape, each.output.dtype
        for place, value in enumerate(node.inputs[:3]):
            if value is each.output:
                node.replace_input_with(place, made)


def keep_first_token(graph: onnx_ir.Graph) -> None:
    """Where a head reads the first token only, compute what only the head reads for this token only: back to the queries of the
    last attention."""
    import onnx_ir

    narrowed = {id(node) for node in graph if _reads_first(node)}
    inside: list[Any] = []
    for node in reversed(list(graph)):
        value = node.outputs[0]
        uses = [(each.node, each.idx) for each in value.uses()]
        only = uses and all(id(reader) in narrowed and place in _rows(reader) for reader, place in uses)
        if len(node.outputs) == 1 and only and not value.is_graph_output() and _row_by_row(node):
            narrowed.add(id(node))
            inside.append(node)
    if not inside:
        return
    numbers = [
        _constant(graph, np.array([each]), f"first_token.{name}")
        for each, name in ((0, "start"), (1, "end"), (TOKENS, "axis"))
    ]
    cut: dict[int, Any] = {}
    for node in reversed(inside):  # in the graph's order
        for place in _rows(node):
            value = node.inputs[place]
            producer = value.producer()
            if producer is not None and id(producer) in narrowed:
                continue
            if id(value) not in cut:
                made = onnx_ir.node("Slice", [value, *numbers], name=f"first_token.{len(cut)}")
                made.outputs[0].shape, made.outputs[0].dtype = _one_token(value), value.dtype
                graph.insert_before(node, made)
                cut[id(value)] = made.outputs[0]
            node.replace_input_with(place, cut[id(value)])
        node.outputs[0].shape = _one_token(node.outputs[0])


def keep_norms_apart(graph: onnx_ir.Graph) -> None:
    """Write the sum of a residual connection in front of a norm as ``Sum``, which onnxruntime leaves alone.

    It would fuse ``Add`` and the norm to a SkipLayerNormalization, which takes 6 times as long on a CPU as both (version 1.32).
    """
    for node in graph:
        producer = (
            node.inputs[0].producer() if node.op_type == "LayerNormalization" and node.inputs[0] is not None else None
        )
        if producer is not None and producer.op_type == "Add" and len(_rows(producer)) == 2:
            producer.op_type = "Sum"


def name_weights(graph: onnx_ir.Graph) -> None:
    """Name the constant weights of products like their biases: ``layer.query.weight`` beside ``layer.query.bias``."""
    for node in graph:
        if node.op_type != "Add":
            continue
        for product, bias in (node.inputs, node.inputs[::-1]):
            producer = product.producer() if product is not None else None
            if producer is None or producer.op_type != "MatMul" or bias is None or not str(bias.name).endswith(".bias"):
                continue
            weight, name = producer.inputs[1], f"{str(bias.name).removesuffix('.bias')}.weight"
            if weight is not None and weight.is_initializer() and name not in graph.initializers:
                del graph.initializers[str(weight.name)]
                weight.name = name
                graph.register_initializer(weight)


class _Projection:
    """A product of features with a constant weight [features, width], and a constant bias or None."""

    def __init__(self, output: Any, features: Any, weight: Any, bias: Any) -> None:
        self.output, self.features, self.weight, self.bias = output, features, weight, bias

    @classmethod
    def of(cls, output: Any) -> _Projection | None:
        """The projection that makes a value; None if something else makes it, or something else reads it too."""
        node, bias = output.producer(), None
        if node is not None and node.op_type == "Add":
            constants = [each for each in node.inputs if each.is_initializer()]
            others = [each for each in node.inputs if not each.is_initializer()]
            if len(constants) != 1 or len(constants[0].shape) != 1:
                return None
            bias, node = constants[0], others[0].producer()
        if node is None or node.op_type != "MatMul" or not node.inputs[1].is_initializer():
            return None
        return cls(output, node.inputs[0], node.inputs[1], bias)


def _reads_first(node: Any) -> bool:
    """Whether a node reads the first token of its input [samples, tokens, features], and nothing else of it."""
    value = node.inputs[0] if node.inputs else None
    if value is None or value.shape is None or len(value.shape) != 3:
        return False
    if node.op_type == "Gather":
        index = node.inputs[1].const_value
        return _attribute(node, "axis") == TOKENS and index is not None and index.numpy().reshape(-1).tolist() == [0]
    if node.op_type == "Slice":
        given = [each.const_value for each in node.inputs[1:] if each is not None]
        return None not in given and [each.numpy().tolist() for each in given] in (
            [[0], [1], [TOKENS]],
            [[0], [1], [TOKENS], [1]],
        )
    return False


def _row_by_row(node: Any) -> bool:
    """Whether each token of the output [samples, tokens, features] depends on this token of the inputs ``_rows`` alone."""
    shape = node.outputs[0].shape
    if shape is None or len(shape) != 3 or not _rows(node):
        return False
    rows = _rows(node)
    if any(node.inputs[place].shape is None or list(node.inputs[place].shape[:2]) != list(shape[:2]) for place in rows):
        return False
    if node.op_type in ROW_BY_ROW:
        others = (each for place, each in enumerate(node.inputs) if place not in rows and each is not None)
        return all(each.const_value is not None and len(each.shape) < 2 for each in others)
    if node.op_type == "MatMul":
        return bool(node.inputs[1].is_initializer()) and len(node.inputs[1].shape) == 2
    if node.op_type == "LayerNormalization":
        return _attribute(node, "axis", -1) in (-1, 2)
    return node.op_type == OPERATOR and len(node.inputs) < 6 and not _attribute(node, "unidirectional", 0)


def _rows(node: Any) -> list[int]:
    """The places of a node's inputs with one row for each token of its output."""
    if node.op_type in ROW_BY_ROW:
        return [
            place
            for place, each in enumerate(node.inputs)
            if each is not None and each.shape is not None and len(each.shape) == 3
        ]
    return [0]


def _same_shape(one: Any, other: Any) -> bool:
    """Whether two values have the same known shape."""
    if one.shape is None or other.shape is None:
        return False
    known = all(isinstance(size, int) or size.value is not None for size in one.shape)
    return known and list(one.shape) == list(other.shape)


def _one_token(value: Any) -> Any:
    import onnx_ir

    return onnx_ir.Shape([value.shape[0], 1, value.shape[2]])


def _attribute(node: Any, name: str, default: Any = None) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.const_value.numpy())


def _constant(graph: Any, array: np.ndarray, name: str) -> Any:
    """An initializer of a graph; the same one for the same values, of layers that share their weights."""
    import onnx_ir

    held = graph.initializers.get(name)
    if held is not None and np.array_equal(_array(held), array):
        return held
    name = name if held is None else f"{name}.{len(graph.initializers)}"
    made = onnx_ir.val(name, const_value=onnx_ir.tensor(array, name=name))
    graph.register_initializer(made)
    return made


def _stem(parts: Sequence[_Projection], otherwise: str | None) -> str:
    """A name for several projections by their modules: ``layer.attention.self.query_key_value``."""
    paths = [str(each.bias.name).rpartition(".")[0] for each in parts if each.bias is not None]
    if not paths or "" in paths:
        return f"{otherwise}.projections"
    return f"{paths[0].rpartition('.')[0]}.{'_'.join(path.rpartition('.')[2] for path in paths)}"
