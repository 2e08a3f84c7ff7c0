"""Exercise in chapter 05_lw_equalization: equalise two layers."""

import torch


# %% code
def equalized(w1, b1, w2):
    """w1 [C, I], b1 [C], w2 [O, C] with equal ranges a channel; w2 @ relu(w1 x + b1) is unchanged."""
    ### BEGIN SOLUTION
    r1, r2 = w1.abs().amax(1), w2.abs().amax(0)
    s = (r1 / r2).sqrt()  # both become the geometric mean
    return w1 / s[:, None], b1 / s, w2 * s
    ### END SOLUTION


# %% tests
w1, b1, w2 = torch.tensor([[4.0], [0.25]]), torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 1.0]])
v1, c1, v2 = equalized(w1, b1, w2)
assert v1.flatten().tolist() == [2, 0.5] and v2.flatten().tolist() == [2, 0.5]
### BEGIN HIDDEN TESTS
g = torch.Generator().manual_seed(0)
w1, w2 = torch.randn(6, 4, generator=g) * torch.logspace(-2, 2, 6)[:, None], torch.randn(3, 6, generator=g)
b1, x = torch.randn(6, generator=g), torch.randn(4, 20, generator=g)
v1, c1, v2 = equalized(w1, b1, w2)
torch.testing.assert_close(v1.abs().amax(1), v2.abs().amax(0))
before, after = w2 @ (w1 @ x + b1[:, None]).relu(), v2 @ (v1 @ x + c1[:, None]).relu()
torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
### END HIDDEN TESTS
