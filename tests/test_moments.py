"""Second moments: half of a symmetric product, mirrored."""

from __future__ import annotations

import pytest
import torch

from fastprune.moments import second_moment


@pytest.mark.parametrize("features", [0, 1, 64, 65, 129, 500])
def test_second_moment_is_the_whole_product(features: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, features, generator=generator)
    weights = torch.rand(50, 1, generator=generator)
    found = second_moment(x, x * weights)
    torch.testing.assert_close(found, x.T @ (x * weights), rtol=1e-4, atol=1e-4)
