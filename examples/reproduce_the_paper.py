# %% [markdown]
# # Reproduce the paper
#
# The three stages of Kwon et al. (NeurIPS 2022), each on top of the one before: the search removes the heads and filters with the
# least Fisher information, the rearrangement swaps those that depend on each other, and the tuning scales what is left by least
# squares.
#
# As a script: `python examples/reproduce_the_paper.py --help`. In a notebook, edit the defaults.

# %%
import argparse

import fastprune

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="./my-classifier", help="A directory or Hub name.")
parser.add_argument(
    "--data", default="train.csv", help="Calibration data, such as the training data: a file, or a Hub name."
)
parser.add_argument("--test", default="test.csv", help="Evaluation data, with other rows than the calibration data.")
parser.add_argument("--samples", default="2048", help="Number of calibration rows.")
options, _ = parser.parse_known_args()

# %%
opened = fastprune.open_pretrained(options.model)
batches = fastprune.make_batches(options.data, opened.task, opened.tokenizer, samples=int(options.samples))
cache = fastprune.PruningCache()  # the Fisher information is the same for all of them
stages = {
    "search": {"rearranger": "none", "tuner": "none"},
    "rearrangement": {"tuner": "none"},
    "tuning": {},
}

# %%
print("dense", fastprune.evaluate(opened, options.test))
for name, without in stages.items():
    result = fastprune.prune(opened, batches, budget=0.6, recipe="paper", cache=cache, **without)
    print(f"after {name}", fastprune.evaluate(result, options.test))

# %% [markdown]
# The default on the same rows: damage curves after reconstruction, and whole weights instead of masks.

# %%
result = fastprune.prune(opened, batches, budget=0.6)
print("default", fastprune.evaluate(result, options.test))
