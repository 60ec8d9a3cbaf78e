"""Time exported models side by side."""

from __future__ import annotations

from pathlib import Path

import torch

from fastprune.errors import UsageError
from fastprune.exporting.opening import format_of, run_exported
from fastprune.measuring.side_by_side import Comparison
from fastprune.measuring.timing import take_turns
from fastprune.ranges import BATCH, LENGTH, ROUNDS, THREADS, check_integer


def bench_exported(
    dense: str | Path,
    pruned: str | Path,
    *,
    batch_size: int | None = None,
    seq_len: int | None = None,
    rounds: int = 15,
    threads: int | None = None,
) -> Comparison:
    """Time two exported text models side by side like ``bench``, each in the runtime of its format, on the same inputs.

    Args:
        dense: A directory that ``export`` wrote.
        pruned: A directory that ``export`` wrote, maybe in another format.
        batch_size: Samples per batch; None: 32.
        seq_len: Tokens per sample; None: 128.
        rounds: Number of measurements of each model, in turns.
        threads: Maximum number of threads per operation; None: the runtime's choice.

    Raises:
        OptionError: A number is out of range.
        ModelError: A directory has no exported model, or a broken one.
        UsageError: No Python runtime supports a format, its runtime is not installed, or a model has inputs other than texts.
    """
    batch_size, seq_len = 32 if batch_size is None else batch_size, 128 if seq_len is None else seq_len
    given = {"batch_size": (batch_size, BATCH), "seq_len": (seq_len, LENGTH), "rounds": (rounds, ROUNDS)}
    for name, (value, allowed) in (given | {"threads": (threads, THREADS)}).items():
        check_integer(name, value, allowed)
    directories = {"dense": dense, "pruned": pruned}
    models = {name: run_exported(directory, threads=threads) for name, directory in directories.items()}
    tokens = torch.ones(batch_size, seq_len, dtype=torch.long)
    known = {"input_ids": tokens, "attention_mask": tokens, "token_type_ids": torch.zeros_like(tokens)}
    known["bbox"] = tokens.new_zeros(batch_size, seq_len, 4)
    odd = sorted({each for model in models.values() for each in model.inputs} - set(known))
    if odd:
        raise UsageError(f"There is no making up '{odd[0]}' for an exported model; only models of texts are timed.")
    makers = {name: lambda model=model: lambda: model(**known) for name, model in models.items()}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)  # for formats that run in torch
        milliseconds = take_turns(makers, rounds=rounds)
    finally:
        torch.set_num_threads(before)
    weights = {name: _bytes(directory) for name, directory in directories.items()}
    return Comparison(batch_size=batch_size, seq_len=seq_len, milliseconds=milliseconds, weights=weights)


def _bytes(directory: str | Path) -> int:
    """Total size in bytes of the files that identify the directory's format."""
    chosen = format_of(directory)
    return sum(file.stat().st_size for file in chosen.found_in(directory)) if chosen else 0
