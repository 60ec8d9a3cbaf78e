"""The format of CTranslate2."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors.torch import save_file

from fastprune.exporting import ctranslate2_spec
from fastprune.exporting.agreement import first_target_token
from fastprune.exporting.ctranslate2_models import HEAD, Ctranslate2Model, open_model
from fastprune.exporting.widening import padding, widened
from fastprune.files import json_text
from fastprune.models.portable import dense_class
from fastprune.models.pretrained import Pretrained
from fastprune.strategies.export_formats import ExportFormat
from fastprune.strategies.options import option

SPEECH = "faster-whisper"
FILE, CONFIG = "model.bin", "config.json"
TOLERANCES = {"float32": 1e-4, "float16": 0.05, "int8": 1.0}
"""By type."""


@dataclass(frozen=True, kw_only=True)
class Ctranslate2Format(ExportFormat):
    """A directory for CTranslate2 and faster-whisper, with the FFN width of each layer.

    All attentions of an encoder or decoder have as many heads as the widest: the others are padded with heads of zeros. Of an
    encoder, CTranslate2 runs all but the head, whose weights are in ``head/weights.safetensors``.
    """

    name: ClassVar[str] = "ctranslate2"
    paper: ClassVar[str] = "The runtime: https://opennmt.net/CTranslate2"
    packages: ClassVar[tuple[str, ...]] = ("ctranslate2",)
    install: ClassVar[str] = "fastprune[ctranslate2]"
    files: ClassVar[tuple[str, ...]] = (FILE, "*vocabulary.json")
    servers: ClassVar[tuple[str, ...]] = ("CTranslate2", SPEECH)

    type: Literal["float32", "float16", "int8"] = option(
        "float32", help="Type of the weights; int8: with a scale for each row, and activations rounded as well."
    )

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.type]

    def refuses(self, opened: Pretrained) -> str:
        return ctranslate2_spec.refuses(opened)

    def declines(self, server: str, opened: Pretrained) -> str:
        model: Any = opened.model
        speech = ctranslate2_spec.FAMILIES[model.config.model_type].kind == "speech"
        return "It runs Whisper only." if server == SPEECH and not speech else ""

    def write(self, opened: Pretrained, directory: Path) -> str:
        model: Any = opened.model
        with torch.no_grad():
            spec = ctranslate2_spec.specification(widened(opened), opened.tokenizer)
            spec.validate()
            spec.optimize(quantization=None if self.type == "float32" else self.type)
            spec.save(str(directory))
        runtime = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        opened.save_companions(directory)
        # both libraries read config.json, and have no name in common that means something else
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        config |= {name: value for name, value in runtime.items() if value is not None or name not in config}
        config["architectures"] = [dense_class(model).__name__]  # for the head
        if model.config.is_encoder_decoder:
            config["decoder_start_token_id"] = first_target_token(model)
        (directory / CONFIG).write_text(json_text(config, indent=2) + "\n", encoding="utf-8")
        family = ctranslate2_spec.FAMILIES[model.config.model_type]
        if family.kind == "encoder" and model.base_model is not model:
            inside = f"{model.base_model_prefix}."
            head = {name: each.clone() for name, each in model.state_dict().items() if not name.startswith(inside)}
            (directory / HEAD).parent.mkdir()
            save_file(head, directory / HEAD)
        zeros, heads = padding(opened)
        told = (
            f"{zeros} of {heads} heads are zeros, because CTranslate2 takes one number of heads for all layers: pruning them saves "
            "no time here, pruning filters does."
        )
        return told if zeros else ""

    def open(self, directory: Path, *, threads: int | None = None) -> Ctranslate2Model:
        return open_model(directory, threads)
