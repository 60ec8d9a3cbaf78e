"""Tiny models with random weights, and random batches for them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from torch import Tensor, nn

from fastprune.calibration.hooks import frozen
from fastprune.data.batches import COUNTED, NO_LABEL, Batches, inputs_for, token_mask
from fastprune.data.tasks import Task
from fastprune.data.workload import dummy_inputs, readings_for
from fastprune.registry import loading, serving
from fastprune.units.experts import unfuse_experts

PARTS = ("encoder", "decoder")
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id")
OFF: dict[str, Any] = {
    "apply_spec_augment": False,
    "layerdrop": 0.0,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
"""Settings that hide the effect of units: random masking and dropping of layers in training, suppressed tokens."""


def tiny_model(
    model_type: str = "bert", head: str = "ForSequenceClassification", **config: Any
) -> transformers.PreTrainedModel:
    """Build a transformers model with random weights, two layers, hidden size 32, 4 heads and 64 filters, in eval mode.

    The same arguments give the same weights. No bias is zero, so that a lost bias changes the outputs.

    Args:
        model_type: ``config.model_type`` of a family in transformers' Auto classes.
        head: Suffix of an Auto class, such as ``ForTokenClassification``; ``Model``: without a head.
        config: Further settings of the configuration, such as ``num_labels=1``.
    """
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64}
    sizes |= {"num_key_value_heads": 2, "n_positions": 64, "ffn_dim": 64}
    sizes |= {"hidden_dim": 64, "vocab_size": 64, "max_position_embeddings": 64, "embedding_size": 16, "num_labels": 2}
    sizes |= {"image_size": 16, "patch_size": 4, "projection_dim": 24, "projection_size": 32}
    sizes |= {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    sizes |= {"shared_expert_intermediate_size": 64}
    sizes |= {"conv_dim": (16, 16), "conv_kernel": (8, 3), "conv_stride": (4, 2), "num_feat_extract_layers": 2}
    sizes |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 16}
    sizes |= {"feat_extract_norm": "layer"}  # the other norm depends on padding
    sizes |= {"d_model": 32, "num_mel_bins": 8, "max_source_positions": 12, "max_target_positions": 64}
    sizes |= {f"{part}_{of}": 2 if of == "layers" else 4 for part in PARTS for of in ("layers", "attention_heads")}
    sizes |= {f"{part}_ffn_dim": 64 for part in PARTS} | {"num_decoder_layers": 2, "d_kv": 8, "d_ff": 64}
    sizes |= {"initializer_range": 0.2, "init_std": 0.2}
    config_class = transformers.CONFIG_MAPPING[model_type]
    towers = config_class.sub_configs.items()
    supported = {name: _supported(tower, sizes) for name, tower in towers}
    settings = {**_supported(config_class, sizes), **supported, **config}
    complete = transformers.AutoConfig.for_model(model_type, **settings)
    factory = _factory(head)
    classes = factory._model_mapping.get(type(complete), ())
    if isinstance(classes, tuple) and classes:  # several heads of one kind: use the first
        complete.architectures = [classes[0].__name__]
    return random_weights(factory.from_config, complete)


def _factory(head: str) -> Any:
    """The Auto class of a head.

    Raises:
        AttributeError: transformers has no such class.
    """
    suffixes = {"Model": "", "ForConditionalGeneration": "ForSeq2SeqLM"}
    return getattr(transformers, "AutoModel" + suffixes.get(head, head))


def _supported(config_class: Any, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that are settings of a configuration class."""
    default = config_class()
    return {name: value for name, value in sizes.items() if hasattr(default, name)}


def random_weights(build: Callable[[Any], Any], config: Any) -> transformers.PreTrainedModel:
    """Build a transformers model with random weights in eval mode, the same for the same configuration. No bias is zero.

    Args:
        build: Builds the model from the configuration, such as the model's class.
        config: The configuration. It is changed: missing or invalid special tokens are set, and settings that hide the effect of
            units are disabled.
    """
    for each in (config, config.get_text_config()):
        for index, name in enumerate(SPECIAL):
            token = getattr(each, name, None)
            if token is None or isinstance(token, list) or token >= getattr(each, "vocab_size", 0):
                setattr(each, name, index)
        if (getattr(each, "decoder_start_token_id", None) or 0) >= getattr(each, "vocab_size", 1):
            each.decoder_start_token_id = each.bos_token_id
    for name, value in OFF.items():
        if hasattr(config, name):
            setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1 or not parameter.any():  # biases, and tables initialised with zeros
                    parameter.add_(0.1 * torch.randn_like(parameter))
    model.eval()
    assert isinstance(model, transformers.PreTrainedModel)
    return model


def tiny_tokenizer(model: nn.Module) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of as many words as a tiny model knows: w0, w1 and so on."""
    config: Any = model.config
    words = {f"w{number}": number for number in range(config.get_text_config().vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=f"w{pad_token_of(model)}",
        unk_token="w1",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )


def tiny_bpe_tokenizer(model: nn.Module) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of as many tokens as a tiny model knows: two special ones, letters, and the pair ``ab``."""
    config: Any = model.config
    alphabet = sorted(ByteLevel.alphabet())[: config.get_text_config().vocab_size - 3]
    tokens = ["<s>", "<pad>", *alphabet, alphabet[0] + alphabet[1]]
    tokenizer = Tokenizer(BPE({token: place for place, token in enumerate(tokens)}, [(alphabet[0], alphabet[1])]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<s>",
        pad_token="<pad>",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )


def tiny_batches(
    model: nn.Module, *, samples: int = 24, batch_size: int = 8, length: int = 9, labels: bool = True, seed: int = 0
) -> Batches:
    """Build random batches for a tiny model, with its task; texts and recordings are padded on the right.

    Args:
        model: A transformers model with text, image, waveform or spectrogram inputs, or several of these.
        samples: Number of samples.
        batch_size: Samples per batch.
        length: Tokens of the longest sample in each batch; the shortest possible sample has 3.
        labels: Add labels drawn from the model's own predictions.
        seed: Seed of the inputs and the labels.
    """
    generator = torch.Generator().manual_seed(seed)
    task = serving.task_for(model.config, type(model))  # type: ignore[arg-type]
    batches = []
    for start in range(0, samples, batch_size):
        lengths = torch.randint(3, length + 1, (min(batch_size, samples - start),), generator=generator)
        lengths[0] = length
        batch = dummy_inputs(model, [readings_for(model, each) for each in lengths.tolist()], generator)
        if labels:
            with frozen(model), torch.no_grad():
                batch |= task.draw_labels(model(**inputs_for(model, batch)), batch, generator)
        batches.append(batch)
    return Batches.wrap(batches, task)


def model_and_batches(
    model: nn.Module | None, batches: Batches | None, *, samples: int = 24
) -> tuple[nn.Module, Batches]:
    """The model with unfused experts [None: a tiny BERT], and the batches [None: random ones]."""
    model = tiny_model() if model is None else unfuse_experts(model)
    return model, tiny_batches(model, samples=samples) if batches is None else batches


def model_for(task: type[Task]) -> nn.Module:
    """A tiny model for a task: a BERT with the task's head, else the first registered family that has such a head."""
    registry = loading.installed().architecture
    model_types = [model_type for name in registry for model_type in registry[name].model_types]
    for head, model_type in itertools.product(task.heads, ("bert", *model_types)):
        with contextlib.suppress(AttributeError, KeyError):  # transformers does not have the head or the type
            config_class: Any = transformers.CONFIG_MAPPING[model_type]
            classes = _factory(head)._model_mapping[config_class]
            name = (classes[0] if isinstance(classes, tuple) else classes).__name__
            for count in (2, 1):  # one output means regression
                if task.serves(config_class(num_labels=count), name):
                    return tiny_model(model_type, head, num_labels=count)
    raise AssertionError(f"No registered family has the head {task.heads[0]} of the task '{task.name}'; pass a model.")


def pad_token_of(model: nn.Module) -> int:
    """The padding token of the model's configuration, or 0."""
    return getattr(model.config, "pad_token_id", None) or 0


def pad_further(model: nn.Module, batches: Batches, extra: int = 4) -> Batches:
    """Add padding on the right to texts (``extra`` tokens) and recordings (half of their length); images are unchanged."""
    if not all(has_tokens(batch) for batch in batches):
        return batches
    padded = []
    for batch in batches:
        tokens = token_mask(batch).shape[1]
        more = tokens // 2 if "input_values" in batch else extra
        by_token = set(batch) - set(batches.task.label_names if batches.task else ())
        names = {name for name in by_token if batch[name].dim() == 2 and batch[name].shape[1] == tokens}
        fill = dict.fromkeys(names, 0) | {name: pad_token_of(model) for name in ("input_ids",) if name in batch}
        fill |= {name: NO_LABEL for name in (batches.task.token_label_names if batches.task else ()) if name in batch}
        longer = dict(batch)
        for name in fill:
            added = batch[name].new_full((len(batch[name]), more, *batch[name].shape[2:]), fill[name])
            longer[name] = torch.cat([batch[name], added], 1)  # [samples, tokens + more]
        padded.append(longer)
    return Batches.wrap(padded, batches.task)


def has_tokens(batch: Mapping[str, Tensor]) -> bool:
    """Whether a batch has tokens or readings, which may be padding; images have none."""
    return any(name in batch for mask_name, values in COUNTED for name in (mask_name, *values))


def sample_count(batch: Mapping[str, Tensor]) -> int:
    """Number of samples of a batch."""
    return len(next(iter(batch.values())))
