"""Exercise in chapter 12_frandi_segmentation: score a segmentation."""

import torch


# %% code
def mean_iou(prediction, truth, classes):
    """Mean over classes of |both| / |either|, of integer maps of equal shape; classes that nobody has do not count."""
    ### BEGIN SOLUTION
    scores = []
    for k in range(classes):
        p, t = prediction == k, truth == k
        if (p | t).any():
            scores.append((p & t).sum() / (p | t).sum())
    return torch.stack(scores).mean().item()
    ### END SOLUTION


# %% tests
truth = torch.tensor([[0, 0, 1, 1]])
assert mean_iou(truth, truth, 3) == 1  # class 2 occurs nowhere and does not count
assert abs(mean_iou(torch.tensor([[0, 1, 1, 1]]), truth, 3) - (1 / 2 + 2 / 3) / 2) < 1e-6
### BEGIN HIDDEN TESTS
from sklearn.metrics import jaccard_score

g = torch.Generator().manual_seed(0)
prediction, truth = torch.randint(0, 4, (2, 6, 8), generator=g)
expected = jaccard_score(truth.flatten(), prediction.flatten(), average="macro")
assert abs(mean_iou(prediction, truth, 4) - expected) < 1e-6
assert mean_iou((truth + 1) % 4, truth, 4) == 0
### END HIDDEN TESTS
