# %% [markdown]
# # Add a criterion
#
# An importance criterion is one class with one method. It is used here without installing anything; with an entry point
# it has a name on the command line as well (docs/plugins.md).
#
# As a script: `python examples/add_a_criterion.py --help`. In a notebook, edit the defaults.

# %%
import argparse
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

import fastprune
from fastprune import testing

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="./my-classifier", help="A directory or Hub name.")
parser.add_argument(
    "--data", default="train.csv", help="Calibration data, such as the training data: a file, or a Hub name."
)
options, _ = parser.parse_known_args()


# %%
@dataclass(frozen=True, kw_only=True)
class ConsumerNorm(fastprune.strategies.Scorer):
    """The norm of the columns that carry a unit's features into the residual stream."""

    name: ClassVar[str] = "consumer-norm"
    order: float = fastprune.option(2.0, above=0, at_most=10, help="Order of the norm.")

    def score(
        self, model: nn.Module, groups: fastprune.units.Groups, batches: fastprune.Batches, generator: torch.Generator
    ) -> fastprune.strategies.Scores:
        importance = {}
        for group in groups:
            weight = fastprune.units.consumer_of(model, group).weight.detach()  # [hidden, features]
            columns = weight.unflatten(1, (group.units, group.width))  # [hidden, units, width]
            importance[group.name] = columns.norm(p=self.order, dim=(0, 2)).cpu()  # [units]
        return fastprune.strategies.Scores(importance=importance)


# %% [markdown]
# The suite says whether it keeps to the contract: one finite score for every unit, the same for the same arguments.

# %%
testing.check_scorer(ConsumerNorm(order=1.0))

# %% [markdown]
# Half of the MACs by the new criterion. It gives no damage curves, so the search is the paper's exact one.

# %%
opened = fastprune.open_pretrained(options.model)
batches = fastprune.make_batches(options.data, opened.task, opened.tokenizer, samples=256)
result = fastprune.prune(opened, batches, budget=0.5, scorer=ConsumerNorm(order=1.0), searcher="exact")
for group in result.kept():
    print(f"{group['name']:<28} {group['kept']:>5} of {group['units']}")
