"""A model family as frozen data: where its layers are, and which linears a unit runs through."""

from __future__ import annotations

from dataclasses import dataclass

Conditions = tuple[tuple[str, object], ...]
"""Pairs of a configuration's attribute and the value that it must have, such as ``("multi_query", True)``; what it lacks, or
has as None, is False."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows of a linear that computes several things at once.

    Attributes:
        rows: The attributes of the block's ``module`` whose product is the number of rows a unit owns. Empty: one.
            ``config.num_key_value_heads``: what the module reads off its configuration.
        shared: The rows serve all units alike (the one key and value of multi-query attention) and always stay;
            ``rows`` then counts all of them.
        repeats: The attribute that says how many times the units come round, each time with ``rows`` each: query heads
            that come again with every key and value. Empty: once.
    """

    rows: tuple[str, ...] = ()
    shared: bool = False
    repeats: str = ""


@dataclass(frozen=True, kw_only=True)
class Producer:
    """A linear whose output rows belong to the units, where its path alone does not say which.

    Attributes:
        linear: Its path, relative to the layer.
        parts: What its rows are, one part behind the other: query, key and value of a fused projection, gate and up of
            a gated FFN. Within a part the units' rows lie side by side. Empty: one part, cut evenly.
        optional: Not every layer or configuration has it.
    """

    linear: str
    parts: tuple[Part, ...] = ()
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class UnitBias:
    """A tensor [batch, units, ...] that layers share, such as a relative position bias: each keeps its own slices.

    Attributes:
        argument: The argument of ``module`` that carries it.
        method: The method of ``module`` that computes it where it is not given. Empty: it always is.
        owner: The attribute of ``module`` that is true where this module has what ``method`` needs.
        output: The place in the returned tuple where it is handed on, whole. 0: nowhere.
    """

    argument: str
    method: str = ""
    owner: str = ""
    output: int = 0


@dataclass(frozen=True, kw_only=True)
class Block:
    """One prunable sublayer of a layer, or several alike. All paths are relative to the layer; ``*`` in them stands for
    every index, such as that of an expert: as many groups as there are. Paths with a slash in front are relative to the base
    model, and ``#`` in them is the layer's index, for models whose sublayers stand in lists of their own: ``/ffns.#.lin1``.

    A unit (an attention head or KV group, an FFN filter) owns rows of every producer and columns of the consumer
    (METHOD 0). Linears are ``nn.Linear``, or transformers' ``Conv1D``, whose weight is transposed.

    Attributes:
        kind: ``attention`` or ``ffn``; cost models tell the two apart.
        module: The module that computes the consumer's input (it may hold the consumer as well). It gets the hidden
            states first, and goes when no unit is left.
        producers: The linears whose output rows belong to the units: paths, or ``Producer`` for fused ones.
        consumer: The linear whose input columns belong to the units.
        residual: The module whose input is the consumer's output plus the residual stream: the LayerNorm of a post-LN
            sublayer, the next LayerNorm of a pre-LN one. Empty: the sum is the layer's own output, as where attention
            and FFN run side by side. The consumer itself: its output is changed before it is added (normalised,
            scaled, moved out of windows), and is compared as it is.
        unit_width: The attributes of ``module`` whose product is the number of features a unit owns, such as the size
            of a head, or that times the query heads of a KV group. Empty: one feature a unit.
        repeats: As for ``Part``: how many times the units come round in the consumer's input, each time with an equal part of
            ``unit_width``.
        units: The attribute of ``module`` that holds the number of units, for families that have no attribute for the
            width.
        counts: The attributes of ``module`` that are proportional to the number of units, to be kept right: heads,
            all heads' features, the sizes of a split. ``config.num_attention_heads``: what the module reads off its
            configuration.
        bias: A tensor with one slice a unit that layers share.
        tables: Parameters [..., units] of the layer's own, of which each unit owns a column, such as a bias for every
            distance in a window.
        cache: The argument of ``module`` that carries the keys and values of earlier tokens. Empty: there is none.
        outputs: How many values ``module`` returns: 1 a tensor, n > 1 a tuple with the tensor first.
        routed: The argument of ``module`` that says which of the layer's tokens it sees [samples * tokens], where those are
            only some (an expert). The consumer gets it behind the features, which are those tokens' alone.
        router: The module whose rows choose among these, where they are experts and it ranks all of them alike.
        name: What the group is called in its layer; ``kind`` unless said, for layers with two blocks of a kind.
        when: What must hold of the configuration for this block to be there.
        optional: Not every layer has it: there is no group where there is no consumer.
    """

    kind: str
    module: str
    producers: tuple[str | Producer, ...]
    consumer: str
    residual: str = ""
    unit_width: tuple[str, ...] = ()
    repeats: str = ""
    units: str = ""
    counts: tuple[str, ...] = ()
    bias: UnitBias | None = None
    tables: tuple[str, ...] = ()
    cache: str = ""
    outputs: int = 1
    routed: str = ""
    router: str = ""
    name: str = ""
    when: Conditions = ()
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers that run one after another, all built alike.

    A list of one layer that runs many times (ALBERT) is a stack as well: one mask, all uses.

    Attributes:
        layers: The path of the list of layers, relative to the base model (``model.base_model``). ``*`` stands for
            every index: ``encoder.layers.*.blocks`` are as many stacks as there are lists.
        blocks: The sublayers of each, in the order in which they run.
        tokens: The model's input that says which tokens of these layers are real [samples, tokens]; without it, or
            where its shape is another, all are.
        convolutions: The configuration's attributes with the kernels and the strides of the convolutions that make these
            layers' tokens of that input's, one behind the other without padding: recordings have many readings a token.
            Empty: there are none.
        optional: Not every head has these layers: an encoder without its decoder.
    """

    layers: str
    blocks: tuple[Block, ...]
    tokens: str = "attention_mask"
    convolutions: tuple[str, ...] = ()
    optional: bool = False


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
