"""The GGUF format of llama.cpp, and its models in llama-cpp-python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fastprune.errors import ModelError
from fastprune.exporting import gguf_decoder, gguf_tokenizer
from fastprune.models.pretrained import Pretrained
from fastprune.strategies.export_formats import ExportFormat
from fastprune.strategies.options import option

if TYPE_CHECKING:
    import llama_cpp

FILE = "model.gguf"
BLOCK = 32
"""Number of weights with one scale in the quantised types."""
TOLERANCES = {"f32": 0.01, "f16": 0.05, "q8_0": 0.5, "q4_0": float("inf")}
"""By type; 4 bits change outputs too much for a comparison to find faults."""


class GgufModel:
    """A GGUF model in llama.cpp, on the CPU.

    Args:
        file: Path of the model.
        threads: Maximum number of threads; None: llama.cpp's choice.

    Raises:
        ModelError: The file is broken.
    """

    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    outputs: tuple[str, ...] = ("logits",)

    def __init__(self, file: Path, *, threads: int | None = None) -> None:
        import llama_cpp

        try:
            self._model: llama_cpp.Llama = llama_cpp.Llama(
                str(file), n_ctx=0, n_gpu_layers=0, logits_all=True, n_threads=threads, verbose=False
            )
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{file} cannot be opened: {error}") from error

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The logits, [samples, tokens, vocabulary]; zeros at padding."""
        tokens, mask = inputs["input_ids"], inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
        logits = torch.zeros(*tokens.shape, self._model.n_vocab())
        for sample, real in enumerate(mask):
            self._model.reset()
            given = tokens[sample][real].tolist()
            self._model.eval(given)
            logits[sample, real] = torch.from_numpy(np.array(self._model.scores[: len(given)]))
        return {"logits": logits}


@dataclass(frozen=True, kw_only=True)
class GgufFormat(ExportFormat):
    """A file for llama.cpp, Ollama and LM Studio, with heads, KV heads and FFN width of each layer.

    For Llama, Mistral and Qwen2 (architecture ``deci`` of llama.cpp) and Qwen3 with tied embeddings (``openelm``, without added
    biases), with their BPE tokenizer. Emptied sublayers are written as one KV group or a few filters of zeros.
    """

    name: ClassVar[str] = "gguf"
    paper: ClassVar[str] = "The specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"
    packages: ClassVar[tuple[str, ...]] = ("gguf",)
    install: ClassVar[str] = "fastprune[gguf]"
    files: ClassVar[tuple[str, ...]] = ("*.gguf",)
    servers: ClassVar[tuple[str, ...]] = ("llama.cpp", "Ollama", "LM Studio")

    type: Literal["f32", "f16", "q8_0", "q4_0"] = option(
        "f16", help="Type of the weights; q8_0 and q4_0: 8 and 4 bits, with a scale for every 32 weights."
    )

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.type]

    def refuses(self, opened: Pretrained) -> str:
        model: Any = opened.model
        if reason := gguf_decoder.refuses(model):
            return reason
        sizes = (model.config.hidden_size, gguf_decoder.head_size(model.config))
        if self._block > 1 and any(size % self._block for size in sizes):
            return (
                f"The type {self.type} needs a hidden size and a head size that are multiples of {self._block}; they are "
                f"{sizes[0]} and {sizes[1]}. Use --set type=f16."
            )
        return gguf_tokenizer.refuses(opened.tokenizer, model.model.embed_tokens.weight.shape[0])

    def write(self, opened: Pretrained, directory: Path) -> None:
        import gguf

        model: Any = opened.model
        family = gguf_decoder.FAMILIES[model.config.model_type]
        writer = gguf.GGUFWriter(directory / FILE, family.architecture)
        found = gguf_decoder.layers(model, self._block)
        writer.add_file_type(
            {
                "f32": gguf.LlamaFileType.ALL_F32,
                "f16": gguf.LlamaFileType.MOSTLY_F16,
                "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
                "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
            }[self.type]
        )
        gguf_decoder.add_metadata(writer, model, found)
        gguf_tokenizer.add_tokenizer(writer, opened.tokenizer, model.model.embed_tokens.weight.shape[0])
        for name, tensor in gguf_decoder.tensors(model, found):
            values = tensor.detach().float().cpu().numpy()
            quantised = values.ndim == 2 and self.type != "f32"  # norms and biases stay in float32
            kind = gguf.GGMLQuantizationType[self.type.upper() if quantised else "F32"]
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        opened.save_companions(directory)

    def open(self, directory: Path, *, threads: int | None = None) -> GgufModel | None:
        try:
            import llama_cpp  # noqa: F401
        except ImportError:
            return None
        return GgufModel(self.found_in(directory)[0], threads=threads)

    @property
    def _block(self) -> int:
        return BLOCK if self.type.startswith("q") else 1
