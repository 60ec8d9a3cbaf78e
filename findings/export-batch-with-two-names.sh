#!/usr/bin/env bash
# Expected: Dim.DYNAMIC finds which dimensions must be equal: both batches, of input_ids and attention_mask, get one
# symbol.
# Seen (torch 2.13.0, transformers 5.24.0): the lengths get one symbol and the batches two, without a constraint
# between them, in torch.export and so in the names of an ONNX graph's inputs. The program fails for three samples and
# two masks.
# Meaning: a server or optimiser that reads the names takes the batches for independent. Give torch.export one
# Dim("batch"), and the ONNX exporter names, for both inputs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "onnx==1.23.2" "onnxscript==0.7.2"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
import transformers
from torch.export import Dim
from transformers import BertConfig, BertForSequenceClassification

print("torch", torch.__version__, "transformers", transformers.__version__)
transformers.logging.set_verbosity_error()
model = BertForSequenceClassification(
    BertConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
).eval()


class Logits(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def inputs(batch: int, masks: int) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.ones(batch, 7, dtype=torch.long),
        "attention_mask": torch.ones(masks, 7, dtype=torch.long),
    }


def both(batch: object, length: object) -> dict[str, dict[int, object]]:
    return {name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")}


def symbols(program: torch.export.ExportedProgram) -> list[tuple[str, ...]]:
    names = set(program.graph_signature.user_inputs)
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.name in names]
    return [tuple(map(str, shape)) for shape in shapes]


def onnx_names(**options: object) -> list[tuple[str, ...]]:
    made = torch.onnx.export(Logits(), (), kwargs=inputs(2, 2), dynamo=True, verbose=False, **options)
    return [tuple(map(str, each.shape)) for each in made.model.graph.inputs]


free = torch.export.export(Logits(), (), kwargs=inputs(2, 2), dynamic_shapes=both(Dim.DYNAMIC, Dim.DYNAMIC))
named = torch.export.export(Logits(), (), kwargs=inputs(2, 2), dynamic_shapes=both(Dim("batch"), Dim("length", max=64)))
graph = onnx_names(dynamic_shapes=both(Dim.DYNAMIC, Dim.DYNAMIC))
named_graph = onnx_names(dynamic_shapes=both("batch", "length"))
try:
    free.module()(**inputs(3, 2))
    unequal = "works"
except (IndexError, RuntimeError, AssertionError) as error:
    unequal = f"{type(error).__name__}: {str(error)[:70]}"
print("expected: the same two names for input_ids and attention_mask")
print("torch.export, Dim.DYNAMIC:", symbols(free), free.range_constraints)
print("torch.export, named:", symbols(named))
print("ONNX, Dim.DYNAMIC:", graph)
print("ONNX, named:", named_graph)
print("Dim.DYNAMIC, three samples and two masks:", unequal)


def one_length_two_batches(shapes: list[tuple[str, ...]]) -> bool:
    (batch, length), (mask_batch, mask_length) = shapes
    return length == mask_length and batch != mask_batch


same = all(first == second for first, second in (symbols(named), named_graph))
if not (one_length_two_batches(symbols(free)) and one_length_two_batches(graph) and same) or unequal == "works":
    sys.exit("The behaviour has changed: see the five lines above.")
PYTHON
