"""Exercise in chapter 14_beyond: round two weights, the second in the light of the first."""

import torch


# %% code
def round_two(w, cov):
    """[2]: w rounded to whole numbers, w[0] to its nearest, then w[1] so that (q - w) cov (q - w) is least."""
    ### BEGIN SOLUTION
    first = w[0].round()
    # the error is least, in w[1] as a real number, at w[1] - cov_10 / cov_11 (first - w[0])
    best = w[1] - cov[1, 0] / cov[1, 1] * (first - w[0])
    return torch.stack([first, best.round()])
    ### END SOLUTION


# %% tests
alike = torch.tensor([[1.0, 0.999], [0.999, 1.0]])
assert round_two(torch.tensor([0.4, 0.4]), alike).tolist() == [0.0, 1.0]
### BEGIN HIDDEN TESTS
assert round_two(torch.tensor([0.4, 0.4]), torch.eye(2)).tolist() == [0.0, 0.0]
for seed in range(20):
    draw = torch.Generator().manual_seed(seed)
    w, root = 3 * torch.randn(2, generator=draw), torch.randn(2, 2, generator=draw) + torch.eye(2)
    cov = root @ root.T + 0.1 * torch.eye(2)
    tried = torch.stack([w[0].round().expand(401), torch.arange(-200.0, 201.0)], 1)
    errors = (((tried - w) @ cov) * (tried - w)).sum(1)
    found = round_two(w, cov)
    error = (found - w) @ cov @ (found - w)
    assert found[0] == w[0].round() and error <= errors.min() * 1.0001 + 1e-5
### END HIDDEN TESTS
