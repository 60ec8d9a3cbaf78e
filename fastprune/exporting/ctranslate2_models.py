"""Models in CTranslate2's runtime, called like the PyTorch models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fastprune.errors import ModelError
from fastprune.exporting.ctranslate2_spec import FAMILIES, Kind
from fastprune.untrusted import read_json

if TYPE_CHECKING:
    import ctranslate2

HEAD = "head/weights.safetensors"
"""Weights behind an encoder, which CTranslate2 does not run, by their names in transformers."""


class Ctranslate2Model:
    """A model in CTranslate2, on the CPU; attributes and calls as described for ``ExportedModel``."""

    def __init__(
        self,
        run: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
    ) -> None:
        self._run, self.inputs, self.outputs = run, inputs, outputs

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the model; texts are padded on the right."""
        return self._run(inputs)


def open_model(directory: Path, threads: int | None) -> Ctranslate2Model:
    """Open a directory of the format ``ctranslate2``.

    Args:
        directory: The directory, with the configuration of both libraries in ``config.json``.
        threads: Maximum number of threads; None: CTranslate2's choice.

    Raises:
        ModelError: The files are broken.
    """
    import ctranslate2

    openers: Mapping[Kind, tuple[Any, Any]] = {
        "encoder": (ctranslate2.Encoder, _encoder),
        "generator": (ctranslate2.Generator, _generator),
        "translator": (ctranslate2.Translator, _translator),
        "speech": (_open_whisper, _whisper),
    }
    try:
        config = read_json(directory / "config.json")
        runtime, build = openers[FAMILIES[config["model_type"]].kind]
        opened = runtime(str(directory), device="cpu", inter_threads=1, intra_threads=threads or 0)
        return build(opened, directory)  # type: ignore[no-any-return]
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"{directory} cannot be opened by CTranslate2: {type(error).__name__}: {reason}") from error


class _Encoder(nn.Module):
    """The encoder in CTranslate2 as a module of transformers, for the head behind it."""

    def __init__(self, runtime: ctranslate2.Encoder, segments: bool) -> None:
        super().__init__()
        self.runtime, self.segments = runtime, segments

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPooling:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        given = {"token_type_ids": token_type_ids.tolist()} if self.segments and token_type_ids is not None else {}
        found = self.runtime.forward_batch(_array(input_ids), lengths=_array(mask.sum(1)), **given)
        pooled = None if found.pooler_output is None else torch.from_numpy(np.array(found.pooler_output))
        return BaseModelOutputWithPooling(torch.from_numpy(np.array(found.last_hidden_state)), pooled)


def _encoder(runtime: ctranslate2.Encoder, directory: Path) -> Ctranslate2Model:
    """An encoder with its head, which runs in PyTorch."""
    config = transformers.AutoConfig.from_pretrained(directory)
    segments = (getattr(config, "type_vocab_size", 0) or 0) > 0
    encoder = _Encoder(runtime, segments)
    model: nn.Module = encoder
    if (directory / HEAD).exists():
        kind = getattr(transformers, config.architectures[0])
        with torch.device("meta"):
            model = kind(config).eval()
        setattr(model, kind.base_model_prefix, encoder)
        model.load_state_dict(load_file(directory / HEAD), assign=True)
    names = ("input_ids", "attention_mask", *(["token_type_ids"] if segments else []))

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode():
            found = model(**{name: inputs[name] for name in names if name in inputs})
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        first = {"last_hidden_state": tensors["last_hidden_state"]} if "last_hidden_state" in tensors else tensors
        return {name: value.float() for name, value in first.items()}

    return Ctranslate2Model(run, names, tuple(run({"input_ids": torch.ones(1, 2, dtype=torch.long)})))


def _generator(runtime: ctranslate2.Generator, directory: Path) -> Ctranslate2Model:
    """A decoder; its logits at all tokens."""

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tokens = inputs["input_ids"]
        mask = inputs.get("attention_mask", torch.ones_like(tokens))
        logits = runtime.forward_batch(_array(tokens), lengths=_array(mask.sum(1)))
        return {"logits": torch.from_numpy(np.array(logits)).float()}

    return Ctranslate2Model(run, ("input_ids", "attention_mask"), ("logits",))


def _translator(runtime: ctranslate2.Translator, directory: Path) -> Ctranslate2Model:
    """An encoder and a decoder; logits at all tokens of the target, which starts with the configuration's first token."""
    vocabulary = read_json(directory / "shared_vocabulary.json")
    config = read_json(directory / "config.json")
    given, size = 0 if config.get("decoder_start_token") is None else 1, int(config["vocab_size"])

    def words(numbers: Tensor) -> list[str]:
        last = len(vocabulary) - 1
        return [vocabulary[min(number, last)] for number in numbers.tolist()]  # behind it is Marian's padding token

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tokens, target = inputs["input_ids"], inputs["decoder_input_ids"]
        mask = inputs.get("attention_mask", torch.ones_like(tokens)).bool()
        found = runtime.translate_batch(
            [words(each[real]) for each, real in zip(tokens, mask, strict=True)],
            [words(each[given:]) for each in target],
            beam_size=1,
            min_decoding_length=0,
            max_decoding_length=target.shape[1],  # the prefix and one more token
            return_logits_vocab=True,
            max_input_length=0,
        )
        logits = _logits(found)
        missing = size - logits.shape[-1]  # Marian's padding token, which CTranslate2 never gives
        return {"logits": nn.functional.pad(logits, (0, missing), value=-torch.inf)}

    return Ctranslate2Model(run, ("input_ids", "attention_mask", "decoder_input_ids"), ("logits",))


def _whisper(runtime: ctranslate2.models.Whisper, directory: Path) -> Ctranslate2Model:
    """Whisper; logits at all tokens of the target, which starts with the configuration's first token."""

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        target = inputs["decoder_input_ids"]
        found = runtime.generate(
            _array(inputs["input_features"].float(), np.float32),
            target.tolist(),
            beam_size=1,
            max_length=2 * target.shape[1],  # CTranslate2 takes a half
            return_logits_vocab=True,
            suppress_blank=False,
            suppress_tokens=[],
        )
        return {"logits": _logits(found)}

    return Ctranslate2Model(run, ("input_features", "decoder_input_ids"), ("logits",))


def _open_whisper(directory: str, **settings: Any) -> ctranslate2.models.Whisper:
    """Open Whisper without its rules on timestamps, by which it replaces logits.

    The rules follow the names of tokens; the first one gets the only name that CTranslate2 then needs.
    """
    import ctranslate2

    start = read_json(Path(directory) / "config.json")["decoder_start_token_id"]
    vocabulary = [f"<{number}>" for number in range(len(read_json(Path(directory) / "vocabulary.json")))]
    vocabulary[start] = "<|endoftext|>"
    files: dict[str, Any] = {"vocabulary.json": json.dumps(vocabulary).encode()}
    files["config.json"] = (Path(directory) / "config.json").read_bytes()
    with (Path(directory) / "model.bin").open("rb") as weights:
        return ctranslate2.models.Whisper(directory, files={**files, "model.bin": weights}, **settings)


def _logits(found: Sequence[Any]) -> Tensor:
    """The logits of each result, [samples, tokens, vocabulary]."""
    steps = [[torch.from_numpy(np.array(step)).float() for step in each.logits[0]] for each in found]
    return torch.stack([torch.stack(each) for each in steps])


def _array(values: Tensor, kind: Any = np.int32) -> ctranslate2.StorageView:
    """A tensor as CTranslate2 takes it."""
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(values.numpy().astype(kind)))
