"""Wav2vec 2.0, HuBERT, UniSpeech and UniSpeech-SAT: encoders of waveforms behind strided convolutions.

Base models are post-LN, large ones (``do_stable_layer_norm``) pre-LN; MMS adds an adapter behind its FFN. WavLM is not
supported: its attention reads the weights of its linears without calling them, so hooks cannot record their outputs.
"""

from dataclasses import replace

from fastprune.units import Architecture, Block, Stack

POST = (("do_stable_layer_norm", False),)
PRE = (("do_stable_layer_norm", True),)

ATTENTION = Block(
    kind="attention",
    module="attention",
    producers=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    consumer="attention.out_proj",
    residual="layer_norm",
    unit_width=("head_dim",),
    counts=("num_heads", "embed_dim"),
    outputs=2,
    when=POST,
)

FFN = Block(
    kind="ffn",
    module="feed_forward",
    producers=("feed_forward.intermediate_dense",),
    consumer="feed_forward.output_dense",
    residual="final_layer_norm",
    when=POST,
    sizes=("intermediate_size",),
)

WAV2VEC2 = Architecture(
    name="wav2vec2",
    model_types=("wav2vec2", "hubert", "unispeech", "unispeech-sat"),
    stacks=(
        Stack(
            layers="encoder.layers",
            blocks=(
                ATTENTION,
                replace(ATTENTION, residual="final_layer_norm", when=PRE),
                FFN,
                replace(FFN, residual="", when=(*PRE, ("adapter_attn_dim", False))),
                replace(FFN, residual="adapter_layer", when=(*PRE, ("adapter_attn_dim", 16))),
            ),
            depth="num_hidden_layers",
            convolutions=("conv_kernel", "conv_stride"),
        ),
    ),
)
