"""Exercise in chapter 11_frandi_prune_quantize: prune, then round, and stay pruned."""

import torch


# %% code
def pruned_and_rounded(weight, kept, bits):
    """The `kept` share with the largest magnitudes, on a symmetric grid of at most 2**bits - 1 levels; else zero."""
    ### BEGIN SOLUTION
    count = round(kept * weight.numel())
    order = weight.abs().flatten().argsort(descending=True)
    mask = torch.zeros(weight.numel()).index_fill(0, order[:count], 1).view(weight.shape)
    step = (weight * mask).abs().max() / (2 ** (bits - 1) - 1)
    return (weight * mask / step).round() * step
    ### END SOLUTION


# %% tests
w = pruned_and_rounded(torch.tensor([0.1, -3.0, 2.0, 0.4]), 0.5, 3)  # levels -3 to 3
assert w.tolist() == [0, -3, 2, 0]
### BEGIN HIDDEN TESTS
weight = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
for kept, bits in ((0.5, 4), (0.2, 8), (1.0, 3)):
    w = pruned_and_rounded(weight, kept, bits)
    limit = weight.abs().flatten().sort(descending=True).values[round(kept * 600) - 1]
    assert (w[weight.abs() < limit] == 0).all() and len(w.unique()) <= 2**bits - 1
    step = weight.abs().max() / (2 ** (bits - 1) - 1)
    large = weight.abs() >= limit
    assert (w - weight)[large].abs().max() <= step / 2 + 1e-6
### END HIDDEN TESTS
