"""Exercise in chapter 15_your_network: store numbers as bytes."""

import torch


# %% code
def as_bytes(x):
    """(levels uint8, scale, zero point) of x, whose range is widened to hold zero; 256 levels from end to end."""
    ### BEGIN SOLUTION
    low, high = min(x.min().item(), 0.0), max(x.max().item(), 0.0)
    scale = (high - low) / 255 or 1.0
    zero = round(-low / scale)
    return (x / scale + zero).round().clamp(0, 255).to(torch.uint8), scale, zero
    ### END SOLUTION


def from_bytes(levels, scale, zero):
    """The numbers that the levels stand for."""
    ### BEGIN SOLUTION
    return (levels.float() - zero) * scale
    ### END SOLUTION


# %% tests
levels, scale, zero = as_bytes(torch.tensor([-1.0, 0.0, 4.1]))
assert levels.dtype == torch.uint8 and from_bytes(levels, scale, zero)[1] == 0
### BEGIN HIDDEN TESTS
for low, high in ((-3.0, 5.0), (1.0, 2.0), (-2.0, -1.0)):
    x = torch.linspace(low, high, 1001)
    levels, scale, zero = as_bytes(x)
    assert 0 <= zero <= 255 and (from_bytes(levels, scale, zero) - x).abs().max() <= 0.51 * scale
    assert scale <= (max(high, 0) - min(low, 0)) / 255 + 1e-6
assert (from_bytes(*as_bytes(torch.zeros(3))) == 0).all()
### END HIDDEN TESTS
