"""Log-likelihoods of labels, and labels drawn from the predicted distributions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune.data import NO_LABEL

BLOCK = 2**22  # probabilities held at once by draw_categorical


def full_precision(tensor: Tensor) -> Tensor:
    """Convert half precision to float32, which sums over tokens and classes need; wider types are unchanged."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def categorical_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each sample's labels.

    Args:
        logits: [samples, classes] or [samples, tokens, classes].
        labels: [samples] or [samples, tokens]; -100 marks no label and adds 0.

    Returns:
        [samples], summed over tokens.
    """
    flat = F.cross_entropy(
        full_precision(logits).flatten(0, -2), labels.flatten(), ignore_index=NO_LABEL, reduction="none"
    )
    return flat.reshape(labels.shape[0], -1).sum(1)  # [samples, tokens] -> [samples]


def categorical_divergence(dense: Tensor, pruned: Tensor, where: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence of the distributions of two models, the dense one's first: [samples], summed over tokens.

    Args:
        dense: Logits, [samples, classes] or [samples, tokens, classes].
        pruned: Logits in the same shape.
        where: The tokens that count, [samples, tokens] bool [all].
    """
    places = torch.ones(dense.shape[:-1], dtype=torch.bool, device=dense.device) if where is None else where
    rows = max(1, BLOCK // max(dense.shape[-1], 1))
    found = []
    for one, other in zip(dense[places].split(rows), pruned[places].split(rows), strict=True):
        expected, given = (full_precision(logits).log_softmax(-1) for logits in (one, other))
        found.append((expected.exp() * (expected - given)).sum(-1))
    total = torch.zeros(places.shape, device=dense.device)
    if found:
        total[places] = torch.cat(found).to(total)
    return total.reshape(len(dense), -1).sum(1)


def draw_categorical(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one class from the softmax of each row, by inversion of its cumulative distribution.

    One uniform number a row is drawn on the CPU, so the draws are the same on every device. Rows are taken in blocks, because
    the probabilities of a vocabulary need far more memory than half-precision logits.

    Args:
        logits: [rows, classes], on any device.
        generator: On the CPU.

    Returns:
        [rows] int64.
    """
    uniform = torch.rand(len(logits), 1, generator=generator).to(logits.device)  # [rows, 1], below 1
    rows = max(1, BLOCK // max(logits.shape[-1], 1))
    blocks = zip(logits.detach().split(rows), uniform.split(rows), strict=True)
    drawn = [_inverted(full_precision(block).softmax(-1), point) for block, point in blocks]
    return torch.cat(drawn) if drawn else uniform.new_zeros(0, dtype=torch.long)


def _inverted(probabilities: Tensor, point: Tensor) -> Tensor:
    """The first class whose cumulative probability [rows, classes] exceeds the point [rows, 1] of the total: [rows]."""
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    below = torch.minimum(point * total, total * (1 - 2**-23))  # below the total after rounding, too
    return torch.searchsorted(cumulative, below, right=True).squeeze(1)


def draw_at(logits: Tensor, where: Tensor, generator: torch.Generator) -> Tensor:
    """Draw classes at the tokens of the mask ``where``: [samples, tokens, classes] -> [samples, tokens], -100 elsewhere."""
    labels = torch.full(where.shape, NO_LABEL, device=logits.device)
    labels[where] = draw_categorical(logits[where], generator)
    return labels


def gaussian_loss(mean: Tensor, labels: Tensor) -> Tensor:
    """Half the squared distance: the negative log-likelihood of a unit Gaussian up to a constant.

    Args:
        mean: [samples, outputs].
        labels: As many elements as ``mean``, in any shape [samples, ...].

    Returns:
        [samples].
    """
    mean = full_precision(mean)
    return (mean - labels.reshape(mean.shape).to(mean.dtype)).square().sum(1) / 2


def draw_gaussian(mean: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from a unit Gaussian around ``mean``, in its shape. The generator is on the CPU."""
    mean = full_precision(mean.detach())
    return mean + torch.randn(mean.shape, generator=generator).to(mean)
