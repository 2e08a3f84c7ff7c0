"""Exercise in chapter 08_udfc: fold a pruned channel into the others."""

import torch


# %% code
def folded(w1, w2, gone):
    """w2 [O, C] with column `gone` at zero and its part in the columns that stay; w1 [C, I]."""
    ### BEGIN SOLUTION
    kept = [c for c in range(len(w1)) if c != gone]
    share = torch.linalg.lstsq(w1[kept].T, w1[gone]).solution  # w1[gone] is about share @ w1[kept]
    result = torch.zeros_like(w2)
    result[:, kept] = w2[:, kept] + w2[:, [gone]] * share
    return result
    ### END SOLUTION


# %% tests
w1 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]])  # the third row is 2 and 3 times the others
new = folded(w1, torch.tensor([[1.0, 1.0, 1.0]]), gone=2)
torch.testing.assert_close(new, torch.tensor([[3.0, 4.0, 0.0]]))
### BEGIN HIDDEN TESTS
g = torch.Generator().manual_seed(0)
w1, w2, x = torch.randn(5, 9, generator=g), torch.randn(4, 5, generator=g), torch.randn(9, 50, generator=g)
for gone in (0, 3):
    new = folded(w1, w2, gone)
    bare = w2.clone()
    bare[:, gone] = 0
    assert (new[:, gone] == 0).all()
    exact = w2 @ w1
    assert (new @ w1 - exact).norm() < (bare @ w1 - exact).norm()
w1[3] = w1[0] - 2 * w1[1]  # now the row is a combination of others, and nothing is lost
torch.testing.assert_close(folded(w1, w2, 3) @ w1 @ x, w2 @ w1 @ x, rtol=1e-3, atol=1e-3)
### END HIDDEN TESTS
