"""Checks of tasks."""

from __future__ import annotations

import torch
from torch import nn

from fastprune.calibration.hooks import frozen
from fastprune.data.batches import Batches, model_inputs, outputs_of
from fastprune.data.tasks import Task
from fastprune.testing.comparing import relative_difference, same_tensors
from fastprune.testing.tiny import model_for, pad_further, sample_count, tiny_batches


def check_task(task: type[Task], *, model: nn.Module | None = None, batches: Batches | None = None) -> None:
    """Labels drawn from a model's own predictions come under the task's names, the same from one seed, without a graph;
    losses are one a sample, finite, independent of the other samples and of padding, and have gradients; a model agrees
    with itself.

    Args:
        task: The class.
        model: A tiny model of a class that it serves; None: a BERT with the task's head.
        batches: Without need of labels; None: random.
    """
    who = f"task '{task.name}'"
    assert task.heads, f"The {who} serves no head."
    assert set(task.token_label_names) <= set(task.label_names), f"The {who}: token_label_names must be label_names."
    model = model or model_for(task)
    assert task.serves(model.config, type(model).__name__), f"The {who} does not serve {type(model).__name__}."  # type: ignore[arg-type]
    chosen = task.for_config(model.config)  # type: ignore[arg-type]
    unlabelled = Batches.wrap(batches or tiny_batches(model, labels=False), chosen)
    batch = model_inputs(unlabelled.batches[0], chosen)
    with frozen(model):
        outputs = model(**batch)
        drawn = [chosen.draw_labels(outputs, batch, torch.Generator().manual_seed(seed)) for seed in (0, 0)]
        assert set(drawn[0]) == set(task.label_names), f"The {who} draws {sorted(drawn[0])}, not {task.label_names}."
        assert not any(value.requires_grad for value in drawn[0].values()), f"The {who} draws labels that have a graph."
        assert same_tensors(*drawn), f"The {who} draws other labels from the same seed."
        labelled = Batches.wrap([{**batch, **drawn[0]}], chosen)
        whole = chosen.loss(outputs, labelled.batches[0])
        further = pad_further(model, labelled).batches[0]
        padded = chosen.loss(outputs_of(model, further, chosen), further)
        single = []
        for row in range(len(whole)):
            one = {name: value[row : row + 1] for name, value in labelled.batches[0].items()}
            single.append(chosen.loss(outputs_of(model, one, chosen), one))
        compared = chosen.compare([outputs], [outputs], [labelled.batches[0]])
    samples = sample_count(batch)
    assert whole.shape == (samples,), f"The {who} gives losses {list(whole.shape)} for {samples} samples; one each."
    assert bool(torch.isfinite(whole).all()), f"The {who} gives losses that are not finite."
    assert relative_difference(whole, torch.cat(single)) < 1e-4, (
        f"The {who}: a sample's loss depends on the others in its batch."
    )
    assert relative_difference(whole, padded) < 1e-4, f"The {who}: a sample's loss depends on its padding."
    model.zero_grad()
    chosen.loss(model(**batch), labelled.batches[0]).sum().backward()
    reached = any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    model.zero_grad()
    assert reached, f"The {who}: no gradient of the loss reaches the model."
    assert compared, f"The {who} compares nothing."
    assert all(abs(value - 1) < 1e-4 for value in compared.values()), (
        f"The {who}: a model differs from itself: {compared}."
    )
