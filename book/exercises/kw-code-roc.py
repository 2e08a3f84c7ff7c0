"""Exercise in chapter 04_kw_correspondence: judge a score."""

import torch


# %% code
def roc_area(inside, outside):
    """Chance that a score from `outside` [M] is above one from `inside` [N]; ties count one half."""
    ### BEGIN SOLUTION
    difference = outside[:, None] - inside[None, :]
    return ((difference > 0).float() + 0.5 * (difference == 0).float()).mean().item()
    ### END SOLUTION


# %% tests
low, high = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6])
assert roc_area(low, high) == 1 and roc_area(high, low) == 0
### BEGIN HIDDEN TESTS
from sklearn.metrics import roc_auc_score

g = torch.Generator().manual_seed(0)
inside, outside = torch.randint(0, 9, (40,), generator=g), torch.randint(3, 12, (25,), generator=g)
truth = torch.cat((torch.zeros(40), torch.ones(25)))
expected = roc_auc_score(truth, torch.cat((inside, outside)))
assert abs(roc_area(inside.float(), outside.float()) - expected) < 1e-6
assert abs(roc_area(inside.float(), inside.float()) - 0.5) < 1e-6
### END HIDDEN TESTS
