#!/usr/bin/env bash
# Expected: torch.utils.flop_counter.FlopCounterMode counts the two products of an attention wherever it runs.
# Seen with torch 2.13.0 on a CPU: the fused kernel that scaled_dot_product_attention takes by default counts as nothing.
# With the kernel MATH the same call counts 2 x 2 x samples x heads x tokens^2 x width.
# Meaning: speedups in FLOPs of a pruned Transformer, counted on a CPU by default, leave out the attention products of the dense
# and of the pruned model. Count within sdpa_kernel(SDPBackend.MATH), or by formula.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6"

"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

SAMPLES, HEADS, TOKENS, WIDTH = 2, 4, 16, 8
queries, keys, values = torch.randn(3, SAMPLES, HEADS, TOKENS, WIDTH)


def counted() -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        scaled_dot_product_attention(queries, keys, values)
    return counter.get_total_flops()


default = counted()
with sdpa_kernel(SDPBackend.MATH):
    in_steps = counted()
formula = 2 * 2 * SAMPLES * HEADS * TOKENS**2 * WIDTH
print(f"torch {torch.__version__}: default kernel {default} FLOPs, MATH {in_steps}, by formula {formula}")
assert in_steps == formula, "The kernel MATH no longer counts as the formula says."
assert default == 0, "The default kernel is counted now: this finding is out of date."
PYTHON
echo "as described"
