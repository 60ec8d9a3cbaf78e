# %% [markdown]
# # Halve my classifier
#
# A trained classifier becomes half as costly, counted in multiply-accumulates (MACs), without retraining. It takes as long as a few
# forward passes over the calibration rows. Their labels are used if there are any; otherwise the model's own predictions serve.
#
# As a script: `python examples/halve_my_classifier.py --help`. In a notebook, edit the defaults.

# %%
import argparse

import fastprune

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="./my-classifier", help="A directory or Hub name.")
parser.add_argument(
    "--data", default="train.csv", help="Calibration data, such as the training data: a file, or a Hub name."
)
parser.add_argument("--test", default="test.csv", help="Evaluation data, with other rows than the calibration data.")
parser.add_argument("--output", default="small", help="A directory that does not exist, or is empty.")
parser.add_argument("--samples", default="2048", help="Number of calibration rows.")
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
# Save it, and see what it lost. `report.html` in the same directory shows what is left of each layer. `fastprune.load` opens the
# smaller model again.

# %%
result.save(options.output)
print("dense ", fastprune.evaluate(opened, options.test))
print("pruned", fastprune.evaluate(options.output, options.test))
