"""Log-likelihoods of labels, and labels drawn from the predicted distributions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune.data import NO_LABEL


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


def draw_categorical(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one class from the softmax of each row: [rows, classes] -> [rows]. The generator is on the CPU."""
    probabilities = full_precision(logits.detach()).softmax(-1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1).to(logits.device)


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
