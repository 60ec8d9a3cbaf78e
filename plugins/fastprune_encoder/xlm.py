"""XLM and FlauBERT (post-LN): attentions, FFNs and norms are in separate module lists, one entry per layer."""

from dataclasses import replace

from fastprune.units import Architecture, Block, Stack

ATTENTION = Block(
    kind="attention",
    module="/attentions.#",
    producers=("/attentions.#.q_lin", "/attentions.#.k_lin", "/attentions.#.v_lin"),
    consumer="/attentions.#.out_lin",
    residual="/layer_norm1.#",
    unit_width=("head_dim",),
    counts=("n_heads",),
    cache="cache",
    outputs=2,
)

FFN = Block(
    kind="ffn",
    module="/ffns.#.lin1",
    producers=("/ffns.#.lin1",),
    consumer="/ffns.#.lin2",
    residual="/layer_norm2.#",
)

XLM = Architecture(
    name="xlm",
    model_types=("xlm",),
    stacks=(Stack(layers="attentions", blocks=(ATTENTION, FFN)),),
)

AFTER = (("pre_norm", False),)

FLAUBERT = Architecture(
    name="flaubert",
    model_types=("flaubert",),
    stacks=(Stack(layers="attentions", blocks=(replace(ATTENTION, when=AFTER), replace(FFN, when=AFTER))),),
)
