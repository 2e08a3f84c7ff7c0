"""Exercise in chapter 09_frandi_recovery: compare the direction of two maps."""

import torch


# %% code
def feature_discrepancy(student, teacher):
    """Distance of two tensors of equal shape, each divided by its own L2 norm; a scalar from 0 to 2."""
    ### BEGIN SOLUTION
    return (student / student.norm() - teacher / teacher.norm()).norm()
    ### END SOLUTION


# %% tests
x = torch.tensor([3.0, 4.0])
assert feature_discrepancy(2 * x, x) < 1e-6 and abs(feature_discrepancy(-x, x) - 2) < 1e-6
### BEGIN HIDDEN TESTS
g = torch.Generator().manual_seed(0)
f, t = torch.randn(2, 3, 4, 5, 6, generator=g)
cosine = torch.nn.functional.cosine_similarity(f.flatten(), t.flatten(), dim=0)
torch.testing.assert_close(feature_discrepancy(f, t).square(), 2 - 2 * cosine)
torch.testing.assert_close(feature_discrepancy(0.1 * f, 7 * t), feature_discrepancy(f, t))
f.requires_grad_()
feature_discrepancy(f, t).backward()
assert (f.grad * f.detach()).sum().abs() < 1e-5  # no gradient along the map itself
### END HIDDEN TESTS
