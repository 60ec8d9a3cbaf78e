"""Time exported models side by side."""

from __future__ import annotations

from pathlib import Path

import torch

from fastprune.exporting.onnx_models import ONNX_FILE, OnnxModel
from fastprune.measuring.side_by_side import Comparison
from fastprune.measuring.timing import take_turns


def is_exported(source: str | Path) -> bool:
    """Whether it is a directory that ``export`` wrote as ONNX."""
    return (Path(source) / ONNX_FILE).is_file()


def bench_exported(
    dense: str | Path,
    pruned: str | Path,
    *,
    batch_size: int | None = None,
    seq_len: int | None = None,
    rounds: int = 15,
    threads: int | None = None,
) -> Comparison:
    """As ``bench`` for two ONNX models, in onnxruntime on the CPU.

    Args:
        dense: A directory that ``export`` wrote.
        pruned: Likewise.
        batch_size: Samples at once; None: 32.
        seq_len: Tokens a sample; None: 128.
        rounds: Turns each.
        threads: That one operator may use; None: onnxruntime's choice.

    Raises:
        UsageError: onnxruntime is not installed.
        ModelError: A file is broken.
    """
    batch_size, seq_len = batch_size or 32, seq_len or 128
    models = {"dense": OnnxModel(dense, threads=threads), "pruned": OnnxModel(pruned, threads=threads)}
    tokens = torch.ones(batch_size, seq_len, dtype=torch.long)
    known = {"input_ids": tokens, "attention_mask": tokens, "token_type_ids": torch.zeros_like(tokens)}
    makers = {name: lambda model=model: lambda: model(**known) for name, model in models.items()}
    return Comparison(
        batch_size=batch_size,
        seq_len=seq_len,
        milliseconds=take_turns(makers, rounds=rounds),
        weights={name: model.file.stat().st_size for name, model in models.items()},
    )
