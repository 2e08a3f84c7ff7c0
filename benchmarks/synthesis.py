"""Images from BatchNorm: a step beside its floor, and beside the peers' way."""

from __future__ import annotations

from functools import partial

import torch

from datafree.baselines import deep_inversion, zeroq
from datafree.core.precision import autocast, bf16_pays
from datafree.networks.weights import load_network
from datafree.networks.zoo import build_network
from datafree.papers.knowledge_within.synthesis import Algorithm1, SynthesisConfig

from . import networks, peers
from .harness import Sides, case, furthest, growth

GROUP = "Images from BatchNorm"
BATCH, STEPS, FEW = 128, 10, 3
"""Images a step; steps of one measurement, which shares what is set up before the first; and those of the slow ways."""

FLOOR = "forward and backward of the network as it is, to its input"


def no_bf16() -> str:
    """A sentence where this processor does not multiply in bfloat16."""
    return "" if bf16_pays() else "this processor has no instructions for bfloat16"


def floor(net: torch.nn.Module, x: torch.Tensor, bf16: bool, steps: int) -> None:
    """So many times forward and backward to the input: no synthesis by gradients does without some form of it."""
    for _ in range(steps):
        with autocast(bf16):
            y = net(x)
        torch.autograd.grad(y.float().sum(), x)


def step_over_floor(name: str, precision: str) -> Sides:
    net = build_network(name).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    x = torch.rand(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    config = SynthesisConfig(batch=BATCH, steps=STEPS, copies=1, precision=precision)
    work = Algorithm1(net, config)
    return Sides(partial(work.run, progress=False), partial(floor, net, x, precision == "bf16", STEPS), times=STEPS)


for _name, _title, _precision, _when in (
    ("resnet20", "ResNet-20", "float32", str),
    ("resnet20", "ResNet-20", "bf16", no_bf16),
    ("resnet44", "ResNet-44", "float32", str),
):
    _words = f"{_title}, batch {BATCH}, {_precision}"
    case(
        f"synthesis step over its floor ({_words})", group=GROUP, when=_when, theirs=FLOOR,
        ours=f"a whole step of algorithm 1: augment, statistics, loss, Adam ({_words})",
    )(partial(step_over_floor, _name, _precision))  # fmt: skip


@case(
    "synthesis step in bf16 over float32", group=GROUP, when=no_bf16,
    ours=f"a step in bf16 (ResNet-20, batch {BATCH})", theirs="the same step in float32",
)  # fmt: skip
def bf16_over_float32() -> Sides:
    half, full = (step_over_floor("resnet20", precision).ours for precision in ("bf16", "float32"))
    return Sides(half, full, times=STEPS)


@case(
    "ZeroQ's images over the authors' way", group=GROUP,
    ours=f"a step of ZeroQ's images in this library (ResNet-20, batch {BATCH}, float32)",
    theirs="outputs of all convolutions kept by hooks, mean and var of each of their images by torch",
    note="The authors match every image, the paper's equation and ours the batch, so losses differ.",
)  # fmt: skip
def zeroq_images() -> Sides:
    net, start = load_network("resnet20").requires_grad_(False), torch.randn(BATCH, 3, 32, 32)
    return Sides(
        partial(zeroq.distilled_images, net, zeroq.ZeroQConfig(steps=FEW, batch=BATCH)),
        lambda: peers.zeroq_images(net, start.clone().requires_grad_(), FEW),
        times=FEW,
    )


@case(
    "Deep Inversion's images over the authors' way", group=GROUP,
    ours=f"a step of Deep Inversion in this library (ResNet-20, batch {BATCH}, float32)",
    theirs="a hook on every BatchNorm, mean and var over the batch by torch",
    note="Compared is the loss of the first step.",
)  # fmt: skip
def inverted_images() -> Sides:
    net = load_network("resnet20").requires_grad_(False)
    config = deep_inversion.InversionConfig(steps=FEW, batch=BATCH)
    # the noise and the classes that `invert` draws from the same seed
    start = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 10, (BATCH,), generator=torch.Generator().manual_seed(0))
    weights = config.rate, config.variation, config.size
    return Sides(
        lambda: deep_inversion.invert(net, config, BATCH)[1],
        lambda: peers.inverted_images(net, start.clone().requires_grad_(), targets, FEW, *weights),
        times=FEW,
        difference=lambda a, b: furthest(a[:1], b[:1]),
    )


def step_of(peer: str) -> Sides:
    """The authors' way over the floor that our own step is held against."""
    sides = {"ZeroQ": zeroq_images, "Deep Inversion": inverted_images}[peer]()
    net = load_network("resnet20").requires_grad_(False)
    return Sides(
        sides.theirs, partial(floor, net, torch.rand(BATCH, 3, 32, 32).requires_grad_(), False, FEW), times=FEW
    )


for _peer in ("ZeroQ", "Deep Inversion"):
    case(
        f"{_peer}, the authors' way, over the floor", group=GROUP, theirs=FLOOR,
        ours=f"{_peer}'s step, the authors' way (ResNet-20, batch {BATCH}, float32, default layout)",
    )(partial(step_of, _peer))  # fmt: skip


@growth(
    "synthesis step",
    {
        "batch": (16, 32, 64),
        "depth": (8, 14, 20, 32),
        "width": (8, 16, 32),
        "image side": (16, 24, 32),
    },
    times=FEW,
)
def step_at(axis: str, size: int):
    net, batch, side = networks.sized(axis, size)
    config = SynthesisConfig(batch=batch, steps=FEW, copies=1, precision="float32")
    work = Algorithm1(net.requires_grad_(False).to(memory_format=torch.channels_last), config, side, classes=10)
    return partial(work.run, progress=False)
