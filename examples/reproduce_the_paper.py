# %% [markdown]
# # Reproduce the paper
#
# Kwon et al.'s three stages: the search for the mask of the least Fisher information, its rearrangement with the
# information between units, and the tuning of the mask by least squares; each on top of the one before.
#
# As a script: `python examples/reproduce_the_paper.py --help`. In a notebook, edit the defaults.

# %%
import argparse

import fastprune

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="./my-classifier", help="A directory or Hub name.")
parser.add_argument("--data", default="train.csv", help="To calibrate on.")
parser.add_argument("--test", default="test.csv", help="To measure on, none of it in the calibration data.")
parser.add_argument("--samples", default="2048", help="Rows to calibrate on.")
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
print("dense", fastprune.evaluate(opened.model, options.test, tokenizer=opened.tokenizer))
for name, without in stages.items():
    result = fastprune.prune(opened, batches, budget=0.6, recipe="paper", cache=cache, **without)
    print(f"after {name}", fastprune.evaluate(result.model, options.test, tokenizer=opened.tokenizer))

# %% [markdown]
# The default on the same rows: damage curves after reconstruction, and whole weights instead of masks.

# %%
result = fastprune.prune(opened, batches, budget=0.6)
print("default", fastprune.evaluate(result.model, options.test, tokenizer=opened.tokenizer))
