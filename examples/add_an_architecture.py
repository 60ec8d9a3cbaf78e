# %% [markdown]
# # Add an architecture
#
# A family is data: where its layers are, and which linears a head or a filter runs through. BERT's, written out here as
# if nobody knew it, does the same as the built-in one.
#
# As a script: `python examples/add_an_architecture.py --help`. In a notebook, edit the defaults.

# %%
import argparse

import fastprune

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="./my-classifier", help="A directory or Hub name.")
parser.add_argument(
    "--data", default="train.csv", help="Calibration data, such as the training data: a file, or a Hub name."
)
options, _ = parser.parse_known_args()

# %%
MINE = fastprune.units.Architecture(
    name="mine",
    model_types=("bert",),  # config.model_type
    stacks=(
        fastprune.units.Stack(
            layers="encoder.layer",  # relative to model.base_model; what follows is relative to a layer
            blocks=(
                fastprune.units.Block(
                    kind="attention",
                    module="attention.self",  # what goes when no head is left
                    producers=("attention.self.query", "attention.self.key", "attention.self.value"),
                    consumer="attention.output.dense",
                    residual="attention.output.LayerNorm",
                    unit_width=("attention_head_size",),
                    counts=("num_attention_heads", "all_head_size"),  # numbers that follow the heads
                    outputs=2,
                ),
                fastprune.units.Block(
                    kind="ffn",
                    module="intermediate",
                    producers=("intermediate.dense",),
                    consumer="output.dense",
                    residual="output.LayerNorm",
                ),
            ),
        ),
    ),
)

# %% [markdown]
# Half of the MACs with it, and with what is registered for the model: the same heads and filters.

# %%
opened = fastprune.open_pretrained(options.model)
batches = fastprune.make_batches(options.data, opened.task, opened.tokenizer, samples=256)
mine = fastprune.prune(opened, batches, budget=0.5, architecture=MINE)
known = fastprune.prune(opened, batches, budget=0.5)
print("the same" if mine.kept() == known.kept() else "not the same")
for group in mine.kept():
    print(f"{group['name']:<28} {group['kept']:>5} of {group['units']}")

# %% [markdown]
# As a file the same is TOML (`fastprune strategies architecture bert` prints it), for `--architecture my.toml`;
# `fastprune check-architecture MODEL --architecture my.toml` runs the conformance suite on it.
