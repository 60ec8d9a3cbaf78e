# %% [markdown]
# # Halve my classifier
#
# A trained classifier keeps half of its multiply-accumulates, without retraining and in a few forward passes over the
# calibration rows. Labels are used where there are any, and drawn from the model where there are none.
#
# As a script: `python examples/halve_my_classifier.py --help`. In a notebook, edit the defaults.

# %%
import argparse

import fastprune

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="./my-classifier", help="A directory or Hub name.")
parser.add_argument("--data", default="train.csv", help="To calibrate on.")
parser.add_argument("--test", default="test.csv", help="To measure on, none of it in the calibration data.")
parser.add_argument("--output", default="small", help="A directory that does not exist, or is empty.")
parser.add_argument("--samples", default="2048", help="Rows to calibrate on.")
options, _ = parser.parse_known_args()

# %% [markdown]
# Open the model, and encode the calibration rows.

# %%
opened = fastprune.open_pretrained(options.model)
batches = fastprune.make_batches(options.data, opened.task, opened.tokenizer, samples=int(options.samples))

# %% [markdown]
# Prune: the model that was opened stays as it is, the result holds a smaller one.

# %%
result = fastprune.prune(opened, batches, budget=0.5)
print(f"{result.cost_after / result.cost_before:.3f} of the {result.measure} are left")
for group in result.kept():
    print(f"{group['name']:<28} {group['kept']:>5} of {group['units']}")

# %% [markdown]
# Save it, load it back, and see what it lost. `small/report.html` shows the same for people.

# %%
result.save(options.output)
smaller = fastprune.load(options.output)
print("dense ", fastprune.evaluate(opened.model, options.test, tokenizer=opened.tokenizer))
print("pruned", fastprune.evaluate(smaller, options.test, tokenizer=opened.tokenizer))
