"""Exercise in chapter 00_start: measure what BatchNorm stores."""

import torch


# %% code
def channel_moments(x):
    """Mean and variance [C] of x [N, C, H, W], over all images and places."""
    ### BEGIN SOLUTION
    values = x.transpose(0, 1).flatten(1)  # [C, N H W]
    mean = values.mean(1)
    return mean, (values - mean[:, None]).square().mean(1)
    ### END SOLUTION


# %% tests
mean, var = channel_moments(torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]]))  # one image, two channels
assert mean.tolist() == [2, 5] and var.tolist() == [1, 0]
### BEGIN HIDDEN TESTS
x = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(0)) * 2 + 1
norm = torch.nn.BatchNorm2d(3, momentum=1.0)
norm(x)
mean, var = channel_moments(x)
torch.testing.assert_close(mean, norm.running_mean)
count = 4 * 5 * 7  # the layer stores the variance over one less
torch.testing.assert_close(var * count / (count - 1), norm.running_var)
### END HIDDEN TESTS
