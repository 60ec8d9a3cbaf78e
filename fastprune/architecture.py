"""A model family as frozen data: where its layers are, and which linears a unit runs through."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Block:
    """One prunable sublayer of a layer. All paths are relative to the layer.

    A unit (an attention head, an FFN filter) owns rows of every producer and columns of the consumer (METHOD 0).

    Attributes:
        kind: ``attention`` or ``ffn``; cost models tell the two apart.
        module: The module that computes the consumer's input (it may hold the consumer as well). It gets the hidden
            states first, and goes when no unit is left.
        producers: The linears whose output rows belong to the units.
        consumer: The linear whose input columns belong to the units.
        residual: The module whose input is the consumer's output plus the residual stream: the LayerNorm of a post-LN
            sublayer, the next LayerNorm of a pre-LN one. Empty: the sum is the layer's own output.
        unit_width: The attributes of ``module`` whose product is the number of features a unit owns, such as the size
            of a head. Empty: one feature a unit.
        unit_counts: The attributes of ``module`` that hold the number of units.
        feature_counts: The attributes of ``module`` that hold the number of features.
        per_unit_inputs: The arguments of ``module`` that hold one slice a unit in their dimension 1, such as a
            relative position bias [batch, heads, tokens, tokens].
        outputs: How many values ``module`` returns: 1 a tensor, n > 1 a tuple with the tensor first.
        name: What the group is called in its layer; ``kind`` unless said, for layers with two blocks of a kind.
    """

    kind: str
    module: str
    producers: tuple[str, ...]
    consumer: str
    residual: str = ""
    unit_width: tuple[str, ...] = ()
    unit_counts: tuple[str, ...] = ()
    feature_counts: tuple[str, ...] = ()
    per_unit_inputs: tuple[str, ...] = ()
    outputs: int = 1
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers that run one after another, all built alike.

    Attributes:
        layers: The path of the list of layers, relative to the base model (``model.base_model``).
        blocks: The sublayers of each, in the order in which they run.
    """

    layers: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A family of models.

    Attributes:
        name: What the family is called, such as ``bert``.
        model_types: The values of ``config.model_type`` that it serves.
        stacks: Its stacks of layers.
    """

    name: str
    model_types: tuple[str, ...]
    stacks: tuple[Stack, ...]
