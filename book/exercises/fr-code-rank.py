"""Exercise in chapter 10_frandi_selection: split a layer in two."""

import torch


# %% code
def split(weight, rank):
    """a [O, rank] and b [rank, I] whose product is nearest to weight [O, I]."""
    ### BEGIN SOLUTION
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vt[:rank]
    ### END SOLUTION


def highest_saving_rank(rows, columns):
    """The largest rank at which both factors together have fewer weights than the matrix."""
    ### BEGIN SOLUTION
    return (rows * columns - 1) // (rows + columns)
    ### END SOLUTION


# %% tests
a, b = split(torch.eye(4)[:3], 2)
assert a.shape == (3, 2) and b.shape == (2, 4)
assert highest_saving_rank(8, 8) == 3  # 4 would have as many weights as before
### BEGIN HIDDEN TESTS
weight = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))
singular = torch.linalg.svdvals(weight)
for rank in (1, 3, 7):
    a, b = split(weight, rank)
    lost = (weight - a @ b).square().sum()
    torch.testing.assert_close(lost, singular[rank:].square().sum(), rtol=1e-3, atol=1e-4)
for rows, columns in ((3, 5), (64, 16), (10, 10)):
    rank = highest_saving_rank(rows, columns)
    assert rank * (rows + columns) < rows * columns <= (rank + 1) * (rows + columns)
### END HIDDEN TESTS
