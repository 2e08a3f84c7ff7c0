"""Exercise in chapter 13_shootout: methods that no other beats."""

import torch


# %% code
def front(cost, top1):
    """Which methods none beats: a mask [N] from the costs [N] and the accuracies [N]."""
    ### BEGIN SOLUTION
    cheap, right = cost <= cost[:, None], top1 >= top1[:, None]
    better = (cost < cost[:, None]) | (top1 > top1[:, None])
    return ~(cheap & right & better).any(1)
    ### END SOLUTION


# %% tests
assert front(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([50.0, 60.0, 55.0])).tolist() == [True, True, False]
### BEGIN HIDDEN TESTS
assert front(torch.tensor([1.0, 1.0]), torch.tensor([50.0, 50.0])).all()  # equals do not beat each other
assert front(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([50.0, 49.0, 50.0])).tolist() == [True, False, False]
assert front(torch.tensor([7.0]), torch.tensor([0.0])).tolist() == [True]
### END HIDDEN TESTS
