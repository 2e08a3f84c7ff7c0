"""Exercise in chapter 03_kw_distillation: write the loss of a student."""

import torch


# %% code
def distillation_loss(student, teacher, temperature):
    """T^2 KL(teacher || student) of logits [N, K], softened by T; a mean over N."""
    ### BEGIN SOLUTION
    p = (teacher / temperature).softmax(1)
    log_q = (student / temperature).log_softmax(1)
    log_p = (teacher / temperature).log_softmax(1)
    return temperature**2 * (p * (log_p - log_q)).sum(1).mean()
    ### END SOLUTION


# %% tests
logits = torch.tensor([[2.0, 0.0, -1.0]])
assert abs(distillation_loss(logits, logits, 3.0)) < 1e-6
assert abs(distillation_loss(logits + 5, logits, 3.0)) < 1e-5  # a shift of all logits is no difference
### BEGIN HIDDEN TESTS
g = torch.Generator().manual_seed(0)
student, teacher = torch.randn(2, 8, 5, generator=g)
expected = torch.nn.functional.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean")
torch.testing.assert_close(distillation_loss(student, teacher, 2.0), 4 * expected)
student.requires_grad_()
distillation_loss(student, teacher, 1.0).backward()  # at T = 1: the difference of probabilities
torch.testing.assert_close(student.grad, (student.softmax(1) - teacher.softmax(1)).detach() / 8)
### END HIDDEN TESTS
