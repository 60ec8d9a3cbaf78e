#!/usr/bin/env bash
# Expected: a model that trains on one device also trains after fully_shard (FSDP2).
# Seen (torch 2.13.0): a linear layer without inputs, nn.Linear(0, 8), trains unsharded. After fully_shard the forward
# works and the backward fails: "_chunk_cat expects non-empty tensor", because gradients of no elements are not
# skipped.
# Meaning: a layer from which pruning took every unit needs another form (a bias alone) before it is finetuned with
# FSDP2.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

print("torch", torch.__version__)
distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))


def step(units: int, sharded: bool) -> str:
    """One training step of an MLP: the shapes of its gradients, or the error."""
    model = nn.Sequential(nn.Linear(4, units), nn.ReLU(), nn.Linear(units, 8))
    if sharded:
        fully_shard(model, mesh=mesh)
    loss = model(torch.ones(2, 4)).sum()
    try:
        loss.backward()
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"
    return "gradients " + ", ".join(str(tuple(parameter.grad.shape)) for parameter in model.parameters())


seen = {(units, sharded): step(units, sharded) for units in (3, 0) for sharded in (False, True)}
distributed.destroy_process_group()
for (units, sharded), result in seen.items():
    print(f"{units} units, {'fully_shard' if sharded else 'unsharded'}: {result}")
print("expected: gradients in all four cases")
works = [seen[key].startswith("gradients") for key in ((3, False), (3, True), (0, False))]
if not all(works) or "_chunk_cat expects non-empty tensor" not in seen[0, True]:
    sys.exit("The behaviour has changed: see the four lines above.")
PYTHON
