"""Students: steps of distillation and of Feature Regression, beside the plain way."""

from __future__ import annotations

import copy
from functools import partial

import torch

from datafree.core import quantized
from datafree.core.distillation import output_divergence, train_student
from datafree.core.precision import autocast
from datafree.networks.weights import load_network
from datafree.papers.frandi import factorization, regression
from datafree.papers.knowledge_within import distillation
from datafree.papers.knowledge_within.calibration import KnowledgeWithin, calibrate

from . import networks, peers
from .harness import Sides, case, furthest

GROUP = "Training a student"
STEPS, RATE = 2, 1e-6
PLAIN = "the teacher as it is, in full autograd, features kept by hooks, default layout, SGD of torch"
WORDS = "(ResNet-20, batch 128, float32)"


def first(ours: list[float], theirs: list[float]) -> float:
    """Difference of the losses before the first step."""
    return furthest(ours[:1], theirs[:1])


@case("distillation step over the plain way", group=GROUP, ours=f"a step of distillation at 4w4a {WORDS}", theirs=PLAIN)
def distillation_step() -> Sides:
    teacher, pool = load_network("resnet20"), networks.noise(256)
    student = calibrate(quantized.prepare(teacher, 4, 4), pool, KnowledgeWithin(steps=1, batch=128))
    config = distillation.DistillConfig(
        steps=STEPS, batch=128, rate=RATE, mixing=False, augment=False, precision="float32"
    )
    layers = distillation.Distillation(student, teacher, pool, config).stages

    def ours(net):
        work = distillation.Distillation(net, teacher, pool, config)
        return train_student(net, work.loss, config, draw=work.draw, teacher=teacher, progress=False)

    def loss(got, wanted):
        distance = distillation.feature_distance(got[1], wanted[1])
        return output_divergence(got[0], wanted[0], config.temperature) + config.features * distance

    def theirs(net):
        batches = distillation.Batches(pool, config.batch, seed=config.seed)
        draw = lambda: batches()[0].contiguous()  # noqa: E731
        return peers.taught(net, teacher, layers, draw, loss, STEPS, RATE)

    return Sides(ours, theirs, times=STEPS, fresh=partial(copy.deepcopy, student), difference=first)


@case(
    "distillation step over bare passes", group=GROUP, ours=f"a step of distillation at 4w4a, with crops and mixing {WORDS}",
    theirs="forward of both float networks and backward of one, nothing else",
)  # fmt: skip
def distillation_over_floor() -> Sides:
    teacher, pool = load_network("resnet20").to(memory_format=torch.channels_last), networks.noise(256)
    student = calibrate(quantized.prepare(teacher, 4, 4), pool, KnowledgeWithin(steps=1, batch=128))
    config = distillation.DistillConfig(steps=STEPS, batch=128, rate=RATE, precision="float32")
    work, plain = distillation.Distillation(student, teacher, pool, config), copy.deepcopy(teacher)
    x = pool.floats()[:128].contiguous(memory_format=torch.channels_last)

    def bare():
        for _ in range(STEPS):
            with torch.no_grad(), autocast(False):
                target = teacher(x)
            plain.zero_grad()
            output_divergence(plain(x), target).backward()

    step = partial(train_student, student, work.loss, config, draw=work.draw, teacher=teacher, progress=False)
    return Sides(step, bare, times=STEPS)


@case(
    "Feature Regression step over the plain way", group=GROUP, theirs=PLAIN,
    ours="a step of Feature Regression at a quarter of the operations (ResNet-20, batch 256, float32)",
)  # fmt: skip
def feature_regression_step() -> Sides:
    teacher, pool = load_network("resnet20"), networks.noise(256)
    factors = factorization.Factorizer(teacher)
    ranks = factors.uniform(3.5)
    config = regression.Recovery(steps=STEPS, rate=RATE, decay=0, precision="float32")

    def ours(net):
        return regression.Regression(net, teacher, list(ranks), pool, config).run()

    def theirs(net):
        draw = lambda: pool.floats().contiguous()  # noqa: E731
        loss = lambda got, wanted: peers.plain_discrepancies(got[1], wanted[1])  # noqa: E731
        return peers.taught(net, teacher, list(ranks), draw, loss, STEPS, RATE)

    return Sides(ours, theirs, times=STEPS, fresh=partial(factors.network, ranks), difference=first)


@case(
    "Feature Discrepancy over autograd", group=GROUP, ours="loss and gradient of a map in one function (64 x 16 x 32 x 32)",
    theirs="the equation by autograd",
)  # fmt: skip
def discrepancy() -> Sides:
    s, t = (torch.randn(64, 16, 32, 32).contiguous(memory_format=torch.channels_last) for _ in range(2))
    s.requires_grad_()
    ways = (partial(way, s, t) for way in (regression.fast_discrepancy, regression.discrepancy))
    one, other = ((lambda way=way: torch.autograd.grad(way(), s)[0]) for way in ways)
    return Sides(one, other, difference=furthest)
