"""Exercise in chapter 06_lw_quantization: correct a bias."""

import torch


# %% code
def corrected_bias(weight, rounded, bias, mean):
    """The bias [O] with which `rounded` [O, I] has the mean output of `weight`, for inputs of mean [I]."""
    ### BEGIN SOLUTION
    return bias - (rounded - weight) @ mean
    ### END SOLUTION


# %% tests
w, b = torch.tensor([[0.4, 0.6]]), torch.tensor([1.0])
assert corrected_bias(w, w.round(), b, torch.tensor([1.0, 1.0])).item() == 1.0  # +0.4 and -0.4 cancel
### BEGIN HIDDEN TESTS
g = torch.Generator().manual_seed(0)
w, b, x = torch.randn(5, 8, generator=g), torch.randn(5, generator=g), torch.rand(300, 8, generator=g)
q = (w * 2).round() / 2
new = corrected_bias(w, q, b, x.mean(0))
torch.testing.assert_close((x @ q.T + new).mean(0), (x @ w.T + b).mean(0), rtol=1e-4, atol=1e-5)
torch.testing.assert_close(corrected_bias(w, w, b, x.mean(0)), b)
### END HIDDEN TESTS
