"""Prune, then quantise: the savings of narrower layers and of smaller numbers multiply.

python examples/quantize_after_pruning.py DENSE PRUNED TEST

Both models are exported to ONNX, and their weights made int8 by onnxruntime (dynamic quantisation): size, time and metrics
of all four. Needs the extra ``onnx``.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from onnxruntime.quantization import quantize_dynamic

import fastprune
from fastprune.exporting.timing import bench_exported


def main(dense: str, pruned: str, test: str, batch_size: str = "1", seq_len: str = "64") -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        exported = {}
        for name, source in (("dense", dense), ("pruned", pruned)):
            opened = fastprune.open_pretrained(source, device="cpu", dtype="float32")
            made = fastprune.export(opened, Path(folder) / name, format="onnx")
            exported[name] = made.directory
            exported[f"{name}, int8"] = shutil.copytree(made.directory, Path(folder) / f"{name}-int8")
            quantize_dynamic(made.files[0], exported[f"{name}, int8"] / "onnx" / made.files[0].name)
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
