"""Fisher information: the diagonal as importance, and swaps that lower the joint loss."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import fastprune
from fastprune import strategy, testing
from fastprune.strategies import Context, Scores
from fastprune.units import Mask, resolve_groups
from fastprune_fisher.rearranger import swap
from fastprune_fisher.scorer import in_mini_batches


def problem(seed: int, units: int = 7, rank: int = 9, kept: int = 4):
    """A random Gram matrix whose units interact strongly, and a random mask."""
    random = np.random.default_rng(seed)
    grads = random.normal(size=(rank, units)) @ random.normal(size=(units, units))
    start = np.zeros(units, dtype=bool)
    start[random.permutation(units)[:kept]] = True
    return grads.T @ grads, start


def objective(gram: np.ndarray, kept: np.ndarray) -> float:
    pruned = (~kept).astype(float)
    return float(pruned @ gram @ pruned)


def neighbours(kept: np.ndarray):
    """All masks one swap away."""
    for out, back in itertools.product(np.flatnonzero(kept), np.flatnonzero(~kept)):
        other = kept.copy()
        other[out], other[back] = False, True
        yield other


@pytest.mark.parametrize("seed", range(40))
def test_swaps_end_in_a_local_optimum_no_higher_than_the_start(seed: int) -> None:
    gram, start = problem(seed, units=4 + seed % 6, kept=2 + seed % 3)
    found = swap(gram, start)
    assert found.sum() == start.sum()
    assert objective(gram, found) <= objective(gram, start)
    lowest = min(objective(gram, other) for other in neighbours(found))
    assert objective(gram, found) <= lowest * (1 + 1e-9)


def test_swaps_find_the_best_of_all_masks_most_of_the_time() -> None:
    hits, helped = 0, 0
    for seed in range(40):
        gram, start = problem(seed)
        found = objective(gram, swap(gram, start))
        masks = [np.isin(np.arange(7), kept) for kept in itertools.combinations(range(7), 4)]
        hits += found <= min(objective(gram, mask) for mask in masks) * (1 + 1e-9)
        helped += found < objective(gram, start) * (1 - 1e-9)
    assert hits >= 20
    assert helped >= 30


def test_start_is_not_changed() -> None:
    gram, start = problem(0)
    before = (gram.copy(), start.copy())
    swap(gram, start)
    assert np.array_equal(gram, before[0])
    assert np.array_equal(start, before[1])


@pytest.mark.parametrize("gram", [np.zeros((5, 5)), np.ones((5, 5)), np.eye(5)])
def test_degenerate_matrices_end(gram: np.ndarray) -> None:
    start = np.array([True, False, True, False, False])
    assert np.array_equal(swap(gram, start), start)


def scores_of(grads: torch.Tensor) -> Scores:
    return Scores(importance={"g": grads.square().mean(0)}, grads={"g": grads})


def test_two_units_that_cancel_are_pruned_together() -> None:
    """Their sum has no gradient, and that of the other two a double one: the diagonal cannot see it, the block can."""
    one, other = torch.linalg.qr(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))[0].T
    grads = torch.stack([one, -one, 0.9 * other, 0.9 * other], 1)
    scores = scores_of(grads)
    searched = Mask.top(scores.importance, {"g": 2})
    assert searched["g"].tolist() == [True, True, False, False]
    rearranged = strategy("rearranger", "fisher").rearrange(searched, scores, Context())
    assert rearranged["g"].tolist() == [False, False, True, True]


def test_full_shrinkage_leaves_the_best_by_the_diagonal() -> None:
    grads = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
    scores = scores_of(grads)
    best = Mask.top(scores.importance, {"g": 4})
    worst = Mask.top({"g": -scores.importance["g"]}, {"g": 4})
    shrunk = strategy("rearranger", "fisher", shrinkage=1.0)
    assert torch.equal(shrunk.rearrange(best, scores, Context())["g"], best["g"])
    assert torch.equal(shrunk.rearrange(worst, scores, Context())["g"], best["g"])
    assert not torch.equal(strategy("rearranger", "fisher").rearrange(best, scores, Context())["g"], best["g"])


@pytest.mark.parametrize("labels", ["dataset", "model"])
def test_importance_is_the_mean_square_of_the_gradients(labels: str) -> None:
    model = testing.tiny_model()
    groups = resolve_groups(fastprune.architecture_for(model), model)
    batches = testing.tiny_batches(model)
    scores = strategy("scorer", "fisher", labels=labels).score(
        model, groups, batches, Context(generator=torch.Generator().manual_seed(5))
    )
    grads, _ = fastprune.calibration.collect_gradients(model, groups, batches, labels, torch.Generator().manual_seed(5))
    for group in groups:
        expected = sum(grads[group.name][row] ** 2 for row in range(24)) / 24
        torch.testing.assert_close(scores.importance[group.name], expected)
        assert float(expected.max()) > 0


def test_mini_batches_are_summed_before_squaring() -> None:
    gradients = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([9, 1, 4, 0, 2, 3, 5, 6, 7, 8])
    summed = in_mini_batches(gradients, order, 4)  # 4, 4 and 2 samples
    sums = torch.stack([gradients[[9, 1, 4, 0]].sum(0), gradients[[2, 3, 5, 6]].sum(0), gradients[[7, 8]].sum(0)])
    torch.testing.assert_close(summed.T @ summed, sums.T @ sums)
    torch.testing.assert_close(summed[9], sums[0] / 2)
    torch.testing.assert_close(in_mini_batches(gradients, order, 1), gradients)


def test_mini_batches_are_another_matrix_and_off_by_default() -> None:
    """What the reference code squares (docs/method.md, section 4.1): fewer vectors, and not the same diagonal."""
    model = testing.tiny_model()
    groups = resolve_groups(fastprune.architecture_for(model), model)
    batches = testing.tiny_batches(model)
    each, ones, eights = (
        strategy("scorer", "fisher", **options).score(model, groups, batches, Context(generator=torch.Generator()))
        for options in ({}, {"mini_batch": 1}, {"mini_batch": 8})
    )
    for group in groups:
        torch.testing.assert_close(each.importance[group.name], ones.importance[group.name])
        assert not torch.allclose(each.importance[group.name], eights.importance[group.name], rtol=0.1)
        assert torch.linalg.matrix_rank(eights.grads[group.name]) <= 3
        torch.testing.assert_close(eights.importance[group.name], eights.grads[group.name].square().mean(0))
