"""Exercise in chapter 07_lw_pruning: prune by a threshold that learns."""

import torch


# %% code
def pruned(weight, s):
    """sign(w) max(|w| - sigmoid(s), 0), s a scalar tensor."""
    ### BEGIN SOLUTION
    return weight.sign() * (weight.abs() - s.sigmoid()).relu()
    ### END SOLUTION


# %% tests
w = pruned(torch.tensor([-0.9, -0.5, 0.2, 0.8]), torch.tensor(0.0))  # sigmoid(0) = 0.5
torch.testing.assert_close(w, torch.tensor([-0.4, 0.0, 0.0, 0.3]))
### BEGIN HIDDEN TESTS
weight = torch.randn(500, generator=torch.Generator().manual_seed(0))
shares = [(pruned(weight, torch.tensor(s)) == 0).float().mean() for s in (-6.0, -2.0, 0.0, 2.0)]
assert shares == sorted(shares) and shares[0] < 0.02 < shares[-1]
s = torch.tensor(-1.0, requires_grad=True)
pruned(weight, s).abs().sum().backward()
assert s.grad < 0  # a higher threshold leaves less
### END HIDDEN TESTS
