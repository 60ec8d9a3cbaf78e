"""Prune, then quantise: the savings of narrower layers and of smaller numbers multiply.

python examples/quantize_after_pruning.py DENSE PRUNED TRAIN TEST

Both models are exported to ONNX, in float32 and with 8-bit weights: size, time and metrics of all four. Needs the extra ``onnx``.
"""

import sys
import tempfile
from pathlib import Path

import fastprune
from fastprune.exporting.timing import bench_exported


def main(dense: str, pruned: str, train: str, test: str, batch_size: str = "1", seq_len: str = "64") -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        exported = {}
        for name, source in (("dense", dense), ("pruned", pruned)):
            opened = fastprune.open_pretrained(source, device="cpu", dtype="float32")
            asked = {name: None, f"{name}, int8": fastprune.Quantize(weights="int8", data=train)}
            for told, quantize in asked.items():
                exported[told] = fastprune.export(opened, Path(folder) / told, quantize=quantize).directory
        for name, directory in exported.items():
            found = bench_exported(
                exported["dense"], directory, batch_size=int(batch_size), seq_len=int(seq_len), threads=1
            ).summary()
            opened = fastprune.open_exported(directory)
            metrics = fastprune.evaluate(opened.model, test, tokenizer=opened.tokenizer, task=opened.task)
            said = ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())
            size = found["pruned"]["weight_bytes"] / 2**20
            print(f"{name:<14} {size:7.1f} MiB {found['speedup']:5.2f}x as fast  {said}")


if __name__ == "__main__":
    main(*sys.argv[1:])
