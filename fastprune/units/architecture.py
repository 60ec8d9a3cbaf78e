"""A model family as frozen data: where its layers are, and which linears a unit runs through.

How the drawings are read: each sign is one row of a linear's output (or one column of its input), from the first to the last.
A digit is the unit that it belongs to, ``s`` is shared by all units, ``|`` separates parts. ``q1`` is a row of unit 1 among the
queries.
"""

from __future__ import annotations

from dataclasses import dataclass

Conditions = tuple[tuple[str, object], ...]
"""Pairs of a configuration's attribute and the value that it must have. A missing attribute, or one that is None, counts as
False: ``(("multi_query", True), ("alibi", False))``."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows of a linear that computes several things at once.

    Of three units, in a module with ``head_dim = 2`` and ``kv_heads = 2``::

        Part()                                          0 1 2
        Part(rows=("head_dim",))                        0 0 1 1 2 2
        Part(rows=("head_dim",), shared=True)           s s
        Part(rows=("head_dim",), repeats="kv_heads")    0 0 1 1 2 2 0 0 1 1 2 2

    Attributes:
        rows: Attributes of the block's ``module`` whose product is the number of rows that a unit owns (one row).
            ``("heads_a_group", "head_size")`` are 8 rows where these are 2 and 4. ``config.num_key_value_heads`` is read off
            the module's configuration.
        shared: The rows serve all units alike and always stay, as the one key of multi-query attention does; ``rows`` is then
            the number of all of them.
        repeats: Attribute with the number of rounds, each with ``rows`` rows of every unit (one round): query heads, of which
            one is in each KV group.
    """

    rows: tuple[str, ...] = ()
    shared: bool = False
    repeats: str = ""


@dataclass(frozen=True, kw_only=True)
class Producer:
    """A linear whose output rows belong to the units, where its path alone does not say which.

    With ``head = Part(rows=("head_dim",))`` and ``one = Part(rows=("head_dim",), shared=True)``, of two heads of two features::

        Producer(linear="attn.c_attn", parts=(head, head, head))          q0 q0 q1 q1 | k0 k0 k1 k1 | v0 v0 v1 v1    GPT-2
        Producer(linear="query_key_value", parts=(head, one, one))        q0 q0 q1 q1 | ks ks | vs vs                Falcon 7B
        Producer(linear="query_key_value")                                q0 q0 k0 k0 v0 v0 q1 q1 k1 k1 v1 v1        GPT-NeoX
        Producer(linear="mlp.gate_up_proj", parts=(Part(), Part()))       gate0 gate1 gate2 | up0 up1 up2            Phi-3

    Attributes:
        linear: Its path, relative to the layer.
        parts: What its rows are, one part behind the other (one part, cut evenly).
        optional: Not every layer or configuration has it: of DeepSeek's ``q_proj`` and ``q_b_proj`` one is there.
    """

    linear: str
    parts: tuple[Part, ...] = ()
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class UnitBias:
    """A tensor [batch, units, ...] that layers share, such as a relative position bias: each keeps its own units' slices.

    T5, where the first layer computes the bias of all, and layer 1 lost head 2 of three::

        layer 0    compute_bias() -> [1, 3, tokens, tokens]            it has the table: ``owner`` is true
                   sees slices 0, 1, 2; returns (output, bias, ...)    ``output`` is 1
        layer 1    attention(hidden, position_bias=bias)               ``argument`` is position_bias
                   sees slices 0, 1; returns (output, bias, ...)       the bias with all slices

    is ``UnitBias(argument="position_bias", method="compute_bias", owner="has_relative_attention_bias", output=1)``. MPNet's
    encoder computes the bias itself and gives it to each layer: ``UnitBias(argument="position_bias")``.

    Attributes:
        argument: Name of ``module``'s argument that carries it.
        method: Method of ``module`` that computes it when the caller passes none, such as ``compute_bias`` (it is always
            passed).
        owner: Attribute of ``module`` that is true where this module has what ``method`` needs (no module has).
        output: Place in the returned tuple where the whole of it is handed on (0: nowhere).
    """

    argument: str
    method: str = ""
    owner: str = ""
    output: int = 0


@dataclass(frozen=True, kw_only=True)
class Block:
    """One prunable sublayer of a layer, or several alike.

    A unit (an attention head or KV group, an FFN filter) owns rows of every producer and columns of the consumer (docs/method.md,
    section 1). Linears are ``nn.Linear``, or transformers' ``Conv1D``, whose weight is transposed. BERT's attention::

        Block(
            kind="attention",
            module="attention.self",                               # heads are counted here, and it goes with the last of them
            producers=("attention.self.query", "attention.self.key", "attention.self.value"),    # rows 0 0 1 1
            consumer="attention.output.dense",                     # columns 0 0 1 1
            residual="attention.output.LayerNorm",                 # LayerNorm(dense(x) + residual stream)
            unit_width=("attention_head_size",),                   # 2 features a head
            counts=("num_attention_heads", "all_head_size"),       # 2 heads, 4 features: 1 and 2 when a head is gone
            outputs=2,                                             # (output, attention weights)
        )

    Paths are relative to the layer, with two exceptions::

        mlp.experts.*.consumer    every index: as many groups as there are experts
        /ffns.#.lin1              relative to the base model, # being the layer's index: sublayers in lists of their own

    Attributes:
        kind: ``attention`` or ``ffn``; cost models tell the two apart.
        module: The module that computes the consumer's input (it may hold the consumer as well). It gets the hidden
            states first, and goes when no unit is left.
        producers: The linears whose output rows belong to the units: paths, or ``Producer`` for fused ones.
        consumer: The linear whose input columns belong to the units. Empty only where groups are made by hand, for units that
            are no consumer's columns.
        residual: The module whose input is the consumer's output plus the residual stream (the layer, whose output is the sum):
            the LayerNorm of a post-LN sublayer, the next LayerNorm of a pre-LN one. The consumer itself where its output is
            changed before it is added (normalised, scaled, moved out of windows): it is then compared as it is.
        unit_width: Attributes of ``module`` whose product is the number of features a unit owns (one): ``("head_dim",)``, or
            ``("num_key_value_groups", "head_dim")`` for a KV group of several query heads.
        repeats: Attribute with the number of rounds in the consumer's input, each with an equal part of ``unit_width`` (one
            round). With 2 rounds and 4 features a unit the columns are ``0 0 1 1 2 2 0 0 1 1 2 2``, as for query heads of 2
            features, of which one is in each of 2 KV groups.
        units: Attribute of ``module`` with the number of units, for families that have none for the width: ``num_kv_heads``.
        counts: Attributes of ``module`` that are proportional to the number of units, and are set when units go.
            ``config.num_attention_heads`` is set for this module alone, not in the model's configuration.
        bias: A tensor with one slice a unit that layers share.
        tables: Parameters [..., units] of the layer's own, of which each unit owns a column: Swin's
            ``relative_position_bias_table`` [distances, heads], a row of which is ``0 1 2``.
        cache: Name of ``module``'s argument with the keys and values of earlier tokens, such as ``past_key_values`` (none).
        outputs: Number of values that ``module`` returns: 1 for a tensor, 3 for a tuple ``(output, bias, weights)``, whose
            first is the tensor.
        routed: Name of ``module``'s argument with the boolean token mask of a routed expert [samples * tokens] (it sees all
            tokens). The consumer gets that mask as its second positional argument; its features are the routed tokens' alone.
        router: The module whose rows choose among these, where they are experts and it ranks all of them alike.
        name: Name of the group in its layer (``kind``), for layers with two blocks of a kind: ``cross-attention``.
        when: What must hold of the configuration for this block to be there. T5 has two FFN blocks, one with ``wi`` and
            ``when=(("is_gated_act", False),)``, one with ``wi_0``, ``wi_1`` and ``when=(("is_gated_act", True),)``.
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
