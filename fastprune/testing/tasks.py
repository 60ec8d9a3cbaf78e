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
    """Check a task: its drawn labels, its loss and its comparison of two models.

    Drawn labels have the task's names, are the same for the same seed and have no autograd graph. Losses are one per sample,
    finite, differentiable, and independent of other samples and of padding. A model agrees fully with itself.

    Args:
        task: The task's class.
        model: A tiny model of the task; None: a BERT with the task's head.
        batches: Batches, with or without labels; None: random.

    Raises:
        AssertionError: A check fails.
    """
    who = f"task '{task.name}'"
    assert task.heads, f"The {who} has no heads."
    assert set(task.token_label_names) <= set(task.label_names), (
        f"The {who}: token_label_names must be a subset of label_names."
    )
    model = model or model_for(task)
    assert task.serves(model.config, type(model).__name__), f"The {who} does not serve {type(model).__name__}."  # type: ignore[arg-type]
    chosen = task.for_config(model.config)  # type: ignore[arg-type]
    unlabelled = Batches.wrap(batches or tiny_batches(model, labels=False), chosen)
    batch = model_inputs(unlabelled.batches[0], chosen)
    with frozen(model):
        outputs = model(**batch)
        drawn = [chosen.draw_labels(outputs, batch, torch.Generator().manual_seed(seed)) for seed in (0, 0)]
        assert set(drawn[0]) == set(task.label_names), (
            f"The {who} draws the labels {sorted(drawn[0])}; they must be {task.label_names}."
        )
        assert not any(value.requires_grad for value in drawn[0].values()), (
            f"The {who} draws labels that require gradients; detach them."
        )
        assert same_tensors(*drawn), f"The {who} draws different labels for the same seed."
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
    assert whole.shape == (samples,), (
        f"The {who} gives losses of the shape {list(whole.shape)} for {samples} samples; there must be one per sample."
    )
    assert bool(torch.isfinite(whole).all()), f"The {who} gives losses that are not finite."
    assert relative_difference(whole, torch.cat(single)) < 1e-4, (
        f"The {who}: a sample's loss depends on the other samples of its batch."
    )
    assert relative_difference(whole, padded) < 1e-4, f"The {who}: a sample's loss depends on its padding."
    model.zero_grad()
    chosen.loss(model(**batch), labelled.batches[0]).sum().backward()
    reached = any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    model.zero_grad()
    assert reached, f"The {who}: no gradient of the loss reaches the model."
    assert compared, f"The {who}: compare() returns no figures."
    assert all(abs(value - 1) < 1e-4 for value in compared.values()), (
        f"The {who}: compare() of a model with itself must give 1.0; got {compared}."
    )
