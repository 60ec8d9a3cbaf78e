# %% [markdown]
# # Prune for this machine's latency
#
# MACs are not time. The cost model `latency` measures the model's own layers, sliced for real, at the batch size and
# length that you serve with, and the budget is then a share of that time.
#
# As a script: `python examples/prune_for_this_latency.py --help`. In a notebook, edit the defaults.

# %%
import argparse

import fastprune

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="./my-classifier", help="A directory or Hub name.")
parser.add_argument(
    "--data", default="train.csv", help="Calibration data, such as the training data: a file, or a Hub name."
)
parser.add_argument("--output", default="small", help="A directory that does not exist, or is empty.")
parser.add_argument("--samples", default="2048", help="Number of calibration rows.")
parser.add_argument("--share", default="0.5", help="Share of the dense model's time that may be left.")
parser.add_argument("--batch-size", default="1", help="Texts of a request, as served.")
parser.add_argument("--seq-len", default="64", help="Tokens of a text, as served.")
options, _ = parser.parse_known_args()

# %%
opened = fastprune.open_pretrained(options.model)
batches = fastprune.make_batches(options.data, opened.task, opened.tokenizer, samples=int(options.samples))
workload = {"batch_size": int(options.batch_size), "seq_len": int(options.seq_len)}

# %% [markdown]
# The table is measured once for a machine and a workload, and kept in the cache.

# %%
cost = fastprune.strategy("cost", "latency", **workload)
result = fastprune.prune(opened, batches, budget=float(options.share), cost=cost)
result.save(options.output)
print(f"predicted: {result.cost_before:.2f} ms before, {result.cost_after:.2f} ms after")

# %% [markdown]
# The proof: both models in turns, on the same inputs.

# %%
compared = fastprune.bench(opened.model, result.model, rounds=9, **workload)
print(f"measured: {compared.speedup:.2f} times as fast")
