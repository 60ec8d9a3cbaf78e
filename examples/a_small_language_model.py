# %% [markdown]
# # A small language model
#
# Plain text is cut into windows, the labels are the next tokens, the metric is perplexity. Where query heads share keys
# and values, a unit is the whole group. Decoders have less to spare than encoders: a tenth or a fifth of the parameters.
#
# As a script: `python examples/a_small_language_model.py --help`. In a notebook, edit the defaults.

# %%
import argparse

import fastprune

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="./my-llama", help="A directory or Hub name.")
parser.add_argument(
    "--data", default="corpus.txt", help="Calibration data, such as the training data: a file, or a Hub name."
)
parser.add_argument("--test", default="held-out.txt", help="To measure perplexity on.")
parser.add_argument("--output", default="small", help="A directory that does not exist, or is empty.")
parser.add_argument("--samples", default="128", help="Number of windows to calibrate on.")
parser.add_argument("--max-length", default="512", help="Tokens of a window.")
options, _ = parser.parse_known_args()

# %%
opened = fastprune.open_pretrained(options.model)
length = int(options.max_length)
batches = fastprune.make_batches(
    options.data, opened.task, opened.tokenizer, samples=int(options.samples), max_length=length
)
test = fastprune.make_batches(options.test, opened.task, opened.tokenizer, samples=None, max_length=length)

# %%
result = fastprune.prune(opened, batches, budget={"params": 0.9})
result.save(options.output)
print("dense ", fastprune.evaluate(opened.model, test))
print("pruned", fastprune.evaluate(result.model, test))

# %% [markdown]
# `generate()` works on what is left, with its cache.

# %%
prompt = test.batches[0]["input_ids"][:1, :8]
print(opened.tokenizer.decode(result.model.generate(prompt, max_new_tokens=12, do_sample=False)[0]))
