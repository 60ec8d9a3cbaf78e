"""Checks of scorers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastprune.calibration.hooks import consumer_inputs
from fastprune.data.batches import Batches, outputs_of
from fastprune.registry import serving
from fastprune.strategies import checks
from fastprune.strategies.context import Context
from fastprune.strategies.contracts import Scorer
from fastprune.strategies.scores import Scores
from fastprune.surgery.materialize import materialize
from fastprune.testing.comparing import relative_difference
from fastprune.testing.guards import contract_kept, untouched
from fastprune.testing.options import check_options
from fastprune.testing.problems import some_mask
from fastprune.testing.tiny import model_and_batches, pad_further, sample_count
from fastprune.units.groups import Group, Groups
from fastprune.units.masks import Mask
from fastprune.units.resolve import resolve_groups


def check_scorer(scorer: Scorer, *, model: nn.Module | None = None, batches: Batches | None = None) -> None:
    """Check a scorer: it fulfils its contract, also on pruned models with empty groups, and ignores padding.

    It gives the same result for the same seed, leaves the model unchanged, and fills exactly the scores in ``provides``.

    Args:
        scorer: The scorer, with the options to check.
        model: A tiny model; None: a BERT.
        batches: A calibration set, padded on the right; None: random.

    Raises:
        AssertionError: A check fails.
    """
    check_options(scorer)
    model, batches = model_and_batches(model, batches)
    who = f"scorer '{scorer.name}'"
    groups = resolve_groups(serving.architecture_for(model), model)
    unknown = sorted(scorer.provides - Scores.optional().keys())
    assert not unknown, (
        f"The {who} provides the unknown scores {unknown}; there are {', '.join(sorted(Scores.optional()))}."
    )
    scores = _score(scorer, model, groups, batches)
    for name in sorted(Scores.optional().keys() - scorer.provides):
        assert getattr(scores, name) is None, f"The {who} fills '{name}', which is not in its 'provides'."
    _check_optional_scores(who, scores, model, groups, batches)
    again = _score(scorer, model, groups, batches)
    padded = _score(scorer, model, groups, pad_further(model, batches))
    for group in groups:
        one = scores.importance[group.name]
        assert torch.equal(one, again.importance[group.name]), (
            f"The {who} gives '{group.name}' different importance for the same seed; use only the generator for randomness."
        )
        assert relative_difference(one, padded.importance[group.name]) <= 1e-4, (
            f"The {who} gives '{group.name}' different importance with more padding; exclude padding."
        )
    names = [group.name for group in groups]
    for mask in (some_mask(groups, empty=names[0], single=names[-1]), Mask.first(groups, dict.fromkeys(names, 0))):
        pruned = materialize(model, groups, mask)
        _score(scorer, pruned, resolve_groups(serving.architecture_for(model), pruned), batches)


def _score(scorer: Scorer, model: nn.Module, groups: Groups, batches: Batches) -> Scores:
    with untouched(model, f"scorer '{scorer.name}'"), contract_kept():
        scores = scorer.score(model, groups, batches, Context(groups=groups))
        checks.check_scores(scores, groups, scorer, batches)
    return scores


def _check_optional_scores(who: str, scores: Scores, model: nn.Module, groups: Groups, batches: Batches) -> None:
    tokens = _token_shapes(model, groups, batches) if scores.token_weights is not None else {}
    for group in groups:
        if scores.grads is not None:
            shape, required = tuple(scores.grads[group.name].shape), (batches.n_samples, group.units)
            assert shape == required, (
                f"The {who} gives '{group.name}' grads of the shape {list(shape)}; it must be {list(required)}."
            )
        if scores.token_weights is not None:
            shapes = [tuple(weights.shape) for weights in scores.token_weights[group.name]]
            expected = tokens[group.name]
            assert shapes == expected, (
                f"The {who} gives '{group.name}' token weights of the shapes {shapes}; they must be {expected}."
            )
            least = min(float(weights.min()) for weights in scores.token_weights[group.name])
            assert least >= 0, f"The {who} gives '{group.name}' a token weight of {least}; it must not be negative."


def _token_shapes(model: nn.Module, groups: Groups, batches: Batches) -> dict[str, list[tuple[int, int]]]:
    """By group name, the numbers of samples and tokens at the input of its consumer, one pair per batch."""
    shapes: dict[str, list[tuple[int, int]]] = {group.name: [] for group in groups}
    for batch in batches:
        samples = sample_count(batch)

        def record(group: Group, features: Tensor, samples: int = samples) -> None:
            shapes[group.name].append((samples, features[..., 0].numel() // samples))

        with consumer_inputs(model, groups, record):
            outputs_of(model, batch, batches.task)
    return shapes
