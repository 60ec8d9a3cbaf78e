"""A model family as frozen data: the paths of its layers, and the linears of each kind of unit.

Notation of the drawings: each sign is one row of a linear's output (or one column of its input), from first to last. A digit is
the unit that owns the row, ``s`` is shared by all units, ``|`` separates parts. ``q1`` is a row of unit 1 among the queries.
"""

from __future__ import annotations

from dataclasses import dataclass

Conditions = tuple[tuple[str, object], ...]
"""Pairs of a configuration attribute and its required value. An attribute that is missing or None counts as False:
``(("multi_query", True), ("alibi", False))``."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows of a fused linear, such as the queries of ``qkv``.

    Of three units, in a module with ``head_dim = 2`` and ``kv_heads = 2``::

        Part()                                          0 1 2
        Part(rows=("head_dim",))                        0 0 1 1 2 2
        Part(rows=("head_dim",), shared=True)           s s
        Part(rows=("head_dim",), repeats="kv_heads")    0 0 1 1 2 2 0 0 1 1 2 2

    Attributes:
        rows: Attributes of the block's ``module`` whose product is the number of rows of a unit (one row).
            ``("heads_a_group", "head_size")`` are 8 rows if these are 2 and 4. ``config.num_key_value_heads`` is read from
            the module's configuration.
        shared: The rows serve all units and are always kept, like the single key of multi-query attention; ``rows`` is then
            their total number.
        repeats: Attribute with the number of rounds, each with ``rows`` rows of every unit (one round): query heads laid out
            with one head of each KV group per round.
    """

    rows: tuple[str, ...] = ()
    shared: bool = False
    repeats: str = ""


@dataclass(frozen=True, kw_only=True)
class Producer:
    """A linear whose output rows belong to the units in a layout that must be described.

    With ``head = Part(rows=("head_dim",))`` and ``one = Part(rows=("head_dim",), shared=True)``, of two heads of two features::

        Producer(linear="attn.c_attn", parts=(head, head, head))          q0 q0 q1 q1 | k0 k0 k1 k1 | v0 v0 v1 v1    GPT-2
        Producer(linear="query_key_value", parts=(head, one, one))        q0 q0 q1 q1 | ks ks | vs vs                Falcon 7B
        Producer(linear="query_key_value")                                q0 q0 k0 k0 v0 v0 q1 q1 k1 k1 v1 v1        GPT-NeoX
        Producer(linear="mlp.gate_up_proj", parts=(Part(), Part()))       gate0 gate1 gate2 | up0 up1 up2            Phi-3

    Attributes:
        linear: Path, relative to the layer.
        parts: Layout of its rows, part by part (one part, divided evenly among the units).
        optional: The linear is missing in some layers or configurations: DeepSeek has either ``q_proj`` or ``q_b_proj``.
    """

    linear: str
    parts: tuple[Part, ...] = ()
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class UnitBias:
    """A tensor [batch, units, ...] shared by layers, such as a relative position bias; each layer selects its units' slices.

    T5, where the first layer computes the bias for all layers, and layer 1 lost head 2 of three::

        layer 0    compute_bias() -> [1, 3, tokens, tokens]            it holds the table: ``owner`` is true
                   sees slices 0, 1, 2; returns (output, bias, ...)    ``output`` is 1
        layer 1    attention(hidden, position_bias=bias)               ``argument`` is position_bias
                   sees slices 0, 1; returns (output, bias, ...)       the bias with all slices

    is ``UnitBias(argument="position_bias", method="compute_bias", owner="has_relative_attention_bias", output=1)``. MPNet's
    encoder computes the bias itself and passes it to each layer: ``UnitBias(argument="position_bias")``.

    Attributes:
        argument: Name of ``module``'s argument with the bias.
        method: Method of ``module`` that computes the bias if the caller passes none, such as ``compute_bias`` (the bias is
            always passed).
        owner: Attribute of ``module`` that is true if this module can run ``method`` (no module can).
        output: Index in the returned tuple of the full bias for the next layers (0: it is not returned).
    """

    argument: str
    method: str = ""
    owner: str = ""
    output: int = 0


@dataclass(frozen=True, kw_only=True)
class Block:
    """A prunable sublayer of a layer, or several sublayers of the same form.

    A unit (an attention head or KV group, an FFN filter) owns rows of every producer and columns of the consumer (docs/method.md,
    section 0). Linears are ``nn.Linear``, or transformers' ``Conv1D``, whose weight is transposed. BERT's attention::

        Block(
            kind="attention",
            module="attention.self",                               # counts the heads; replaced if no head is left
            producers=("attention.self.query", "attention.self.key", "attention.self.value"),    # rows 0 0 1 1
            consumer="attention.output.dense",                     # columns 0 0 1 1
            residual="attention.output.LayerNorm",                 # LayerNorm(dense(x) + residual stream)
            unit_width=("attention_head_size",),                   # 2 features a head
            counts=("num_attention_heads", "all_head_size"),       # 2 heads, 4 features: 1 and 2 after removing a head
            outputs=2,                                             # (output, attention weights)
        )

    Paths are relative to the layer, with two exceptions::

        mlp.experts.*.consumer    every index: one group per expert
        /ffns.#.lin1              relative to the base model, # is the layer's index: for sublayers in separate lists

    Attributes:
        kind: ``attention`` or ``ffn``, for cost models.
        module: Module that computes the consumer's input (it may contain the consumer). Its first argument are the hidden
            states. It is replaced if no unit is left.
        producers: Linears whose output rows belong to the units: paths, or ``Producer`` for fused ones.
        consumer: Linear whose input columns belong to the units. Empty only for groups built by hand whose units own no
            columns of a consumer.
        residual: Module whose input is the consumer's output plus the residual stream (the layer, whose output is the sum):
            the LayerNorm of a post-LN sublayer, the next LayerNorm of a pre-LN one. The consumer itself if its output is
            changed before the addition (normalised, scaled, moved out of windows): the consumer's own output is then compared.
        unit_width: Attributes of ``module`` whose product is the number of features of a unit (one): ``("head_dim",)``, or
            ``("num_key_value_groups", "head_dim")`` for a KV group of several query heads.
        repeats: Attribute with the number of rounds in the consumer's input, each with an equal part of ``unit_width`` (one
            round). With 2 rounds and 4 features per unit the columns are ``0 0 1 1 2 2 0 0 1 1 2 2``, as for query heads of 2
            features laid out with one head of each KV group per round.
        units: Attribute of ``module`` with the number of units, for families without one for the width: ``num_kv_heads``.
        counts: Attributes of ``module`` that are proportional to the number of units, and are updated when units are removed.
            ``config.num_attention_heads`` is set for this module alone, not in the model's configuration.
        bias: A tensor shared by layers with one slice per unit.
        tables: Parameters [..., units] of the layer with one column per unit: Swin's ``relative_position_bias_table``
            [distances, heads], whose rows are ``0 1 2``.
        cache: Name of ``module``'s argument with the KV cache, such as ``past_key_values`` (none).
        outputs: Number of values that ``module`` returns: 1 for a tensor, 3 for a tuple ``(output, bias, weights)``; the first
            is the output tensor.
        routed: Name of ``module``'s argument with the boolean token mask of a routed expert [samples * tokens] (it sees all
            tokens). The consumer receives that mask as second positional argument; its features hold the routed tokens only.
        router: Module with one row per expert that selects among these experts, if it ranks all of them alike.
        listed: Generation setting that lists units of this block as pairs of layer and unit, such as Whisper's
            ``alignment_heads``; it follows the kept units (none).
        name: Name of the group in its layer (``kind``), for layers with two blocks of a kind: ``cross-attention``.
        when: Conditions on the configuration for this block. T5 has two FFN blocks, one with ``wi`` and
            ``when=(("is_gated_act", False),)``, one with ``wi_0``, ``wi_1`` and ``when=(("is_gated_act", True),)``.
        optional: Some layers lack the block: layers without the consumer get no group.
        sizes: Settings of the configuration that are proportional to the number of units, the same for all layers of all stacks:
            ``("intermediate_size",)``. The plain form removes units of these blocks only (none: every layer keeps all units).
        width_setting: Setting with the number of features of a head, which the plain form writes, since it would follow from
            the number of heads otherwise: ``head_dim`` (none).
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
    listed: str = ""
    name: str = ""
    when: Conditions = ()
    optional: bool = False
    sizes: tuple[str, ...] = ()
    width_setting: str = ""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers of the same form that run one after another.

    A list of one layer that runs many times (ALBERT) is a stack as well: one mask for all runs.

    Attributes:
        layers: Path of the list of layers, relative to the base model (``model.base_model``). ``*`` stands for every index:
            ``encoder.layers.*.blocks`` is one stack per list.
        blocks: The sublayers of each layer, in the order in which they run.
        tokens: The model's input with the mask of tokens without padding [samples, tokens]; if it is missing or has another
            shape, all tokens count.
        convolutions: Configuration attributes with the kernels and the strides of the convolutions, in sequence and without
            padding, that turn the readings of a recording (the positions of the mask) into these layers' tokens. Empty: no
            convolutions.
        optional: Some heads lack these layers: an encoder without its decoder.
        depth: Setting of the configuration with the number of layers, such as ``num_hidden_layers``. The plain form then removes
            whole layers (none: it keeps all).
        by_layer: Settings with a list of one entry for each layer, such as ``layer_types``; they follow the removed layers.
        keeps_first: The first layer is built differently, or computes something for the others, and stays.
    """

    layers: str
    blocks: tuple[Block, ...]
    tokens: str = "attention_mask"
    convolutions: tuple[str, ...] = ()
    optional: bool = False
    depth: str = ""
    by_layer: tuple[str, ...] = ()
    keeps_first: bool = False


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A family of models.

    Attributes:
        name: Name of the family, such as ``bert``.
        model_types: Supported values of ``config.model_type``.
        stacks: Stacks of layers.
    """

    name: str
    model_types: tuple[str, ...]
    stacks: tuple[Stack, ...]
