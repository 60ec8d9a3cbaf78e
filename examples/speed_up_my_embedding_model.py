# %% [markdown]
# # Speed up my embedding model
#
# A SentenceTransformer directory goes in and comes out, with its pooling, normalisation and prompts. It takes no labels:
# sentences of your own domain, one a line, are all it needs.
#
# As a script: `python examples/speed_up_my_embedding_model.py --help`. In a notebook, edit the defaults.

# %%
import argparse

import fastprune

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="A directory or Hub name.")
parser.add_argument(
    "--data", default="sentences.txt", help="Calibration data, such as the training data: a file, or a Hub name."
)
parser.add_argument("--test", default="held-out.txt", help="Other sentences, to compare both models on.")
parser.add_argument("--output", default="small", help="A directory that does not exist, or is empty.")
parser.add_argument("--samples", default="2048", help="Number of calibration rows.")
options, _ = parser.parse_known_args()

# %%
opened = fastprune.open_pretrained(options.model)
batches = fastprune.make_batches(options.data, opened.task, opened.tokenizer, samples=int(options.samples))
result = fastprune.prune(opened, batches, budget=0.5)
result.save(options.output)

# %% [markdown]
# How near the embeddings are to the dense model's on sentences that the calibration did not see, and how much faster
# they come.

# %%
held_out = fastprune.make_batches(options.test, opened.task, opened.tokenizer, samples=None)
print(fastprune.fidelity(opened.model, result.model, held_out))
compared = fastprune.bench(opened.model, result.model, batch_size=32, seq_len=64, rounds=5)
print(f"{compared.speedup:.2f} times as fast")
