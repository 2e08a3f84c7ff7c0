"""Exercise in chapter 01_kw_synthesis: write the divergence of two normals."""

import torch


# %% code
def divergence(mu_hat, var_hat, mu, var):
    """KL(measured || stored) of normals, [C] each."""
    ### BEGIN SOLUTION
    ratio = (var_hat + (mu_hat - mu).square()) / var
    return 0.5 * (var / var_hat).log() - 0.5 * (1 - ratio)
    ### END SOLUTION


# %% tests
zero, one = torch.zeros(1), torch.ones(1)
assert divergence(zero, one, zero, one).item() == 0
assert abs(divergence(one, one, zero, one).item() - 0.5) < 1e-6  # a shift by one deviation
### BEGIN HIDDEN TESTS
from torch.distributions import Normal, kl_divergence

g = torch.Generator().manual_seed(0)
mu_hat, mu = torch.randn(2, 50, generator=g)
var_hat, var = torch.rand(2, 50, generator=g) + 0.1
expected = kl_divergence(Normal(mu_hat, var_hat.sqrt()), Normal(mu, var.sqrt()))
torch.testing.assert_close(divergence(mu_hat, var_hat, mu, var), expected)
### END HIDDEN TESTS
