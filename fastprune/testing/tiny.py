"""Tiny models with random weights, and random batches for them."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn

from fastprune.calibration.hooks import frozen
from fastprune.data.batches import COUNTED, NO_LABEL, Batches, token_mask
from fastprune.data.tasks import Task
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
"""What would hide units: stretches and layers that training leaves out at random, tokens that are never generated."""


def tiny_model(
    model_type: str = "bert", head: str = "ForSequenceClassification", **config: Any
) -> transformers.PreTrainedModel:
    """A random transformers model of two layers, 32 hidden units, 4 heads and 64 filters, in eval mode.

    The same arguments give the same weights. No bias is zero, so that losing one shows.

    Args:
        model_type: As in ``config.model_type``; the family is known to transformers' AutoConfig and Auto classes.
        head: The ending of an Auto class, such as ``ForTokenClassification``; ``Model`` for none.
        config: Other values of the configuration, such as ``num_labels=1``.
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
    sizes |= {"feat_extract_norm": "layer"}  # the other norm hears padding
    sizes |= {"d_model": 32, "num_mel_bins": 8, "max_source_positions": 12, "max_target_positions": 64}
    sizes |= {f"{part}_{of}": 2 if of == "layers" else 4 for part in PARTS for of in ("layers", "attention_heads")}
    sizes |= {f"{part}_ffn_dim": 64 for part in PARTS} | {"num_decoder_layers": 2, "d_kv": 8, "d_ff": 64}
    sizes |= {"initializer_range": 0.2, "init_std": 0.2}
    config_class = transformers.CONFIG_MAPPING[model_type]
    towers = config_class.sub_configs.items()
    settings = {**_known(config_class, sizes), **{name: _known(tower, sizes) for name, tower in towers}, **config}
    described = transformers.AutoConfig.for_model(model_type, **settings)
    factory = _factory(head)
    classes = factory._model_mapping.get(type(described), ())
    if isinstance(classes, tuple) and classes:  # several heads of one kind: the plain one
        described.architectures = [classes[0].__name__]
    return random_weights(factory.from_config, described)


def _factory(head: str) -> Any:
    """The Auto class of a head.

    Raises:
        AttributeError: There is none.
    """
    named = {"Model": "", "ForConditionalGeneration": "ForSeq2SeqLM"}
    return getattr(transformers, "AutoModel" + named.get(head, head))


def _known(config_class: Any, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the sizes that a kind of configuration has."""
    usual = config_class()
    return {name: value for name, value in sizes.items() if hasattr(usual, name)}


def random_weights(build: Callable[[Any], Any], config: Any) -> transformers.PreTrainedModel:
    """A transformers model with random weights in eval mode, the same for the same configuration. No bias is zero.

    Args:
        build: Makes the model of a configuration; its class will do.
        config: Special tokens that it does not have, or has beyond its vocabulary, are set, and what hides units is off.
    """
    for each in (config, config.get_text_config()):
        for place, name in enumerate(SPECIAL):
            known = getattr(each, name, None)
            if known is None or isinstance(known, list) or known >= getattr(each, "vocab_size", 0):
                setattr(each, name, place)
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
                if parameter.dim() == 1 or not parameter.any():  # biases, and tables that training is to fill
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


def tiny_batches(
    model: nn.Module, *, samples: int = 24, batch_size: int = 8, length: int = 9, labels: bool = True, seed: int = 0
) -> Batches:
    """Random batches for a tiny model, texts and recordings padded on the right, with the task that serves the model.

    Args:
        model: A transformers model of texts, pictures, recordings, spectra, or several of them.
        samples: How many.
        batch_size: Samples a batch.
        length: Tokens of the longest sample; the shortest has 3.
        labels: Whether there are labels; they are drawn from the model's own predictions.
        seed: Of the tokens and the labels.
    """
    generator = torch.Generator().manual_seed(seed)
    task = serving.task_for(model.config, type(model))  # type: ignore[arg-type]
    batches = []
    for start in range(0, samples, batch_size):
        lengths = torch.randint(3, length + 1, (min(batch_size, samples - start),), generator=generator)
        lengths[0] = length
        batch = _inputs(model, lengths, generator)
        if labels:
            with frozen(model), torch.no_grad():
                batch |= task.draw_labels(model(**batch), batch, generator)
        batches.append(batch)
    return Batches.wrap(batches, task)


def _inputs(model: nn.Module, lengths: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Whatever the model takes, of so many tokens each sample: [samples, ...]."""
    config: Any = model.config
    takes = inspect.signature(model.forward).parameters
    text, seen, pad = config.get_text_config(), getattr(config, "vision_config", config), pad_token_of(model)
    real = torch.arange(int(lengths.max())) < lengths[:, None]  # [samples, tokens]
    batch: dict[str, Tensor] = {}
    if "input_ids" in takes:
        ids = torch.randint(pad + 1, text.vocab_size, real.shape, generator=generator)
        batch |= {"input_ids": torch.where(real, ids, pad), "attention_mask": real.long()}
    if "decoder_input_ids" in takes:
        others = torch.randint(pad + 1, text.vocab_size, real.shape, generator=generator)
        batch |= {"decoder_input_ids": torch.where(real, others, pad), "decoder_attention_mask": real.long()}
    if "pixel_values" in takes:
        sides = (seen.num_channels, seen.image_size, seen.image_size)
        batch["pixel_values"] = torch.randn(len(lengths), *sides, generator=generator)
    if "input_features" in takes:
        bins, times = config.num_mel_bins, 2 * config.max_source_positions
        batch["input_features"] = torch.randn(len(lengths), bins, times, generator=generator)
    if "input_values" in takes:
        readings = lengths.clone()
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            readings = (readings - 1) * stride + kernel
        heard = torch.arange(int(readings.max())) < readings[:, None]  # [samples, readings]
        waves = torch.randn(heard.shape, generator=generator)
        batch |= {"input_values": torch.where(heard, waves, 0.0), "attention_mask": heard.long()}
    return batch


def model_and_batches(
    model: nn.Module | None, batches: Batches | None, *, samples: int = 24
) -> tuple[nn.Module, Batches]:
    """Those that were given, experts opened, or a tiny BERT and random batches for it."""
    model = tiny_model() if model is None else unfuse_experts(model)
    return model, tiny_batches(model, samples=samples) if batches is None else batches


def model_for(task: type[Task]) -> nn.Module:
    """A tiny model with a head that the task serves: a BERT, or else one of the first family that has such a head."""
    registry = loading.installed().architecture
    known = [model_type for name in registry for model_type in registry[name].model_types]
    for head, model_type in itertools.product(task.heads, ("bert", *known)):
        with contextlib.suppress(AttributeError, KeyError):  # transformers has no such head, or type
            config_class: Any = transformers.CONFIG_MAPPING[model_type]
            listed = _factory(head)._model_mapping[config_class]
            name = (listed[0] if isinstance(listed, tuple) else listed).__name__
            for count in (2, 1):  # one output is for numbers
                if task.serves(config_class(num_labels=count), name):
                    return tiny_model(model_type, head, num_labels=count)
    raise AssertionError(f"The task '{task.name}' serves {task.heads[0]}, which no known family has; give a model.")


def pad_token_of(model: nn.Module) -> int:
    """What its configuration says, or 0."""
    return getattr(model.config, "pad_token_id", None) or 0


def pad_further(model: nn.Module, batches: Batches, extra: int = 4) -> Batches:
    """The same batches, with more padding on the right where they have any, of recordings half as much as they have."""
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
    """Whether it says which of its tokens are real; pictures do not."""
    return any(name in batch for mark, values in COUNTED for name in (mark, *values))


def sample_count(batch: Mapping[str, Tensor]) -> int:
    """How many samples a batch has."""
    return len(next(iter(batch.values())))
