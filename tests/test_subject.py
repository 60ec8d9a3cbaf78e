"""The subject of a run: what cannot be pruned, or not be opened again, is refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers import BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

import fastprune
from fastprune import testing
from fastprune.errors import CheckpointError, DataError, ModelError
from fastprune_tasks.classification import SequenceClassification


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


class Packed(nn.Linear):
    """A linear whose weight is packed, as those of 4 bits are."""


class WithLoRA(nn.Linear):
    """A linear that holds an adapter."""


class Own(BertPreTrainedModel):
    """A user's own classifier, in nobody's library."""

    def __init__(self, config: Any, hidden: int = 0) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.head = nn.Linear(config.hidden_size, hidden or config.num_labels)
        self.post_init()

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **others: Any) -> Any:
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
        return SequenceClassifierOutput(logits=self.head(states[:, 0]))


class OwnWithSize(Own):
    """A class that cannot be built from its configuration alone."""

    def __init__(self, config: Any, hidden: int) -> None:
        super().__init__(config, hidden)


def refused(model: Any, message: str, error: type[Exception] = ModelError) -> None:
    before = {name: id(value) for name, value in model.named_parameters()}
    batches = testing.tiny_batches(testing.tiny_model())
    with pytest.raises(error, match=message):
        fastprune.prune(model, batches, budget=0.5)
    assert {name: id(value) for name, value in model.named_parameters()} == before


def masked(linear: Any) -> None:
    prune.l1_unstructured(linear, "weight", 0.5)


def parametrized(linear: Any) -> None:
    parametrize.register_parametrization(linear, "weight", Doubled())


def packed(linear: Any) -> None:
    linear.__class__ = Packed
    linear.weight = nn.Parameter(torch.zeros(512, 1, dtype=torch.uint8), requires_grad=False)


def eight_bits(linear: Any) -> None:
    linear.weight = nn.Parameter(torch.zeros(linear.weight.shape, dtype=torch.int8), requires_grad=False)


def adapted(linear: Any) -> None:
    linear.__class__ = WithLoRA
    linear.lora_A = nn.Parameter(torch.zeros(2, linear.in_features))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            masked,
            r"cannot be sliced: its weight is masked by torch\.nn\.utils\.prune; call torch\.nn\.utils\.prune\.remove",
        ),
        (parametrized, "its weight is parametrized; call .*remove_parametrizations first"),
        (packed, r"its weight is packed or quantised \(Tensor of uint8, \[512, 1\] for \[32, 32\]\)"),
        (eight_bits, "its weight is packed or quantised .* of int8"),
        (adapted, "a WithLoRA also has lora_A; merge them into its weight first"),
    ],
)
def test_linears_that_are_not_plain_are_refused(change: Callable[[Any], None], message: str) -> None:
    model = testing.tiny_model()
    change(model.bert.encoder.layer[1].attention.self.query)
    refused(model, message)


def test_quantised_models_are_refused() -> None:
    model = testing.tiny_model()
    model.is_quantized = True
    refused(model, "weights of the BertForSequenceClassification are quantised. Prune the model in float16")


@pytest.mark.parametrize("change", [masked, parametrized])
def test_heads_that_do_not_open_again_are_refused(change: Callable[[Any], None]) -> None:
    model = testing.tiny_model()
    change(model.classifier)
    refused(model, "is not what its class builds from its configuration.* classifier")


def test_a_replaced_head_is_refused() -> None:
    model = testing.tiny_model()
    model.classifier = nn.Linear(32, 5)
    refused(model, r"could not be opened again: classifier\.bias, classifier\.weight\. Build them in the class")


def test_a_class_of_ones_own_is_saved_and_opens_with_it(tmp_path: Path) -> None:
    config = testing.tiny_model().config
    model = testing.random_weights(Own, config)
    task = SequenceClassification.for_config(config)
    batches = testing.tiny_batches(testing.tiny_model())
    result = fastprune.prune(model, batches, budget=0.6, bench=False, recipe="paper", task=task)
    folder = result.save(tmp_path / "small")
    state = fastprune.load(folder, model_class=Own).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in result.model.state_dict().items())
    with pytest.raises(CheckpointError, match="has a pruned 'Own', a class that transformers .* pass the class"):
        fastprune.load(folder)
    assert 'fastprune.load("small", model_class=Own)' in (folder / "README.md").read_text()


def test_a_class_that_needs_more_than_its_configuration_is_refused() -> None:
    model = testing.random_weights(lambda config: OwnWithSize(config, 7), testing.tiny_model().config)
    refused(model, "The dense OwnWithSize cannot be built from the model's configuration", CheckpointError)


def test_weights_that_are_not_finite_are_told_of_a_model_in_memory() -> None:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="given BertForSequenceClassification have NaN .*0.output.dense.weight"):
        fastprune.prune(model, testing.tiny_batches(model), budget=0.5)


def test_a_model_built_in_inference_mode_is_told() -> None:
    batches = testing.tiny_batches(testing.tiny_model("bert", "ForSequenceClassification"))
    with torch.inference_mode():
        model = testing.tiny_model("bert", "ForSequenceClassification")
    with pytest.raises(ModelError, match="inference_mode and gets no gradients"):
        fastprune.prune(model, list(batches), budget=0.5)


def test_batches_of_padding_alone_are_told() -> None:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    batches = [{**each, "attention_mask": 0 * each["attention_mask"]} for each in testing.tiny_batches(model)]
    with pytest.raises(DataError, match="All tokens of the batches are padding"):
        fastprune.prune(model, batches, budget=0.5)
