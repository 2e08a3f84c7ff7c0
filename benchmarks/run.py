"""Our code against the naive version, the bare floor and the peers, side by side in one process.

Every pair is timed in turns, so that whatever else the machine does falls on both. What is kept are ratios:
absolute times do not travel. Run it with `make bench`; it writes _build/bench.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from datafree import files
from datafree.core import batchnorm, pruning, quantized
from datafree.core.distillation import output_divergence, train_student
from datafree.core.graph import fold_all, trace
from datafree.core.hooks import input_hooks
from datafree.core.metrics import outputs
from datafree.core.precision import autocast, bf16_pays
from datafree.core.provenance import provenance
from datafree.core.range_search import search_range, search_range_by_loops
from datafree.data.images import generated, random_crop_and_mirror
from datafree.networks.weights import load_network
from datafree.networks.zoo import build_network
from datafree.papers.frandi import compression, factorization, regression, selection
from datafree.papers.knowledge_within.calibration import KnowledgeWithin, calibrate
from datafree.papers.knowledge_within.distillation import Distillation, DistillConfig
from datafree.papers.knowledge_within.synthesis import Algorithm1, SynthesisConfig
from datafree.papers.layerwise.equalization import afcle_step, equalize
from datafree.papers.udfc import reconstruction as reconstruction_module
from datafree.papers.udfc.reconstruction import ALPHA1, ALPHA2, Folded, closed_form

PEERS = {"resnet20": {"ZeroQ": 2.20, "DeepInversion": 2.29}, "resnet44": {"ZeroQ": 2.30, "DeepInversion": 2.25}}
"""Seconds a step over the same floor, measured elsewhere with one thread, float32, default layout."""

EQUALIZATION_PEERS = {"AIMET, seconds": 0.59, "DFQ's own code, seconds": 35.0}
"""Cross-layer equalisation of torchvision's MobileNetV2, measured elsewhere on one core."""


def in_turns(ours: Callable, reference: Callable, repeats: int) -> dict:
    """Median seconds of both, their ratio, and the spread of the ratios of neighbouring runs."""
    ours(), reference()
    pairs = []
    for _ in range(repeats):
        times = []
        for function in (ours, reference):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        pairs.append(times)
    a, b = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    ratios = sorted(x / y for x, y in pairs)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return {
        "ours": a,
        "reference": b,
        "ratio": a / b,
        "unit": "s",
        "repeats": repeats,
        "spread": quartiles[2] - quartiles[0],
    }


class Setting:
    """One network with images, and the three ways to spend a step on it."""

    def __init__(self, name: str, batch: int, bf16: bool, layout=torch.channels_last):
        self.bf16 = bf16
        self.net = build_network(name).eval().requires_grad_(False).to(memory_format=layout)
        self.x = torch.rand(batch, 3, 32, 32).contiguous(memory_format=layout).requires_grad_()
        self.reference = batchnorm.stored(self.net)
        precision = "bf16" if bf16 else "float32"
        config = SynthesisConfig(batch=batch, steps=1, copies=1, precision=precision)
        self.algorithm = Algorithm1(self.net, config)

    def floor(self) -> None:
        """Forward and backward to the input: no synthesis by gradients can be cheaper than a form of it."""
        with autocast(self.bf16):
            y = self.net(self.x)
        torch.autograd.grad(y.float().sum(), self.x)

    def hooks(self) -> None:
        """The usual implementation: mean and variance of each BatchNorm input in forward hooks."""
        moments = []

        def note(_name, z):
            moments.append((z.float().mean((0, 2, 3)), z.float().var((0, 2, 3), unbiased=False)))

        with input_hooks(self.net, [name for name, _ in batchnorm.layers(self.net)], note), autocast(self.bf16):
            self.net(self.x)
        torch.autograd.grad(batchnorm.mean_divergence(moments, self.reference), self.x)

    def step(self) -> None:
        """A whole step of algorithm 1: clip, augment, forward, compare, backward, Adam."""
        self.algorithm.run(progress=False)


def synthesis(repeats: int, batch: int) -> list[dict]:
    rows = []
    for name in ("resnet20", "resnet44"):
        for bf16 in (False, True) if bf16_pays() else (False,):
            setting, precision = Setting(name, batch, bf16), "bf16" if bf16 else "float32"
            label = f"{name}, batch {batch}, {precision}"
            rows.append({"name": f"synthesis step / floor ({label})"} | in_turns(setting.step, setting.floor, repeats))
            rows[-1]["peers"] = {} if bf16 else PEERS[name]
            if name == "resnet20":
                rows.append(
                    {"name": f"synthesis step / step with hooks ({label})"}
                    | in_turns(setting.step, setting.hooks, repeats)
                )
    if bf16_pays():
        half, full = Setting("resnet20", batch, True), Setting("resnet20", batch, False)
        rows.append(
            {"name": f"synthesis step in bf16 / in float32 (resnet20, batch {batch})"}
            | in_turns(half.step, full.step, repeats)
        )
    return rows


def moments(repeats: int) -> list[dict]:
    z = torch.randn(128, 16, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    one, zero = torch.ones(1, 16, 1, 1), torch.zeros(1, 16, 1, 1)
    g = torch.randn_like(z)

    def ours():
        y, mu, var = batchnorm.BatchNormWithMoments.apply(z, one, zero)
        torch.autograd.grad((y * g).sum() + mu.sum() + var.sum(), z)

    def naive():
        y = torch.nn.functional.batch_norm(z, zero.flatten(), one.flatten())
        var, mu = torch.var_mean(z, (0, 2, 3))
        torch.autograd.grad((y * g).sum() + mu.sum() + var.sum(), z)

    return [
        {"name": "BatchNorm with moments / BatchNorm and var_mean (128 x 16 x 32 x 32)"}
        | in_turns(ours, naive, repeats)
    ]


def calibration(repeats: int) -> list[dict]:
    net, pool = build_network("resnet20").eval(), generated(torch.rand(256, 3, 32, 32), "x")
    widths = [(8, 8), (4, 8), (4, 4), (2, 4)]
    config = KnowledgeWithin(steps=1, batch=128)
    student = quantized.prepare(net, 8, 8)

    def ours():
        calibrate(student, pool, config)
        for w, a in widths:
            quantized.set_bits(student, w, a)

    def naive():
        for w, a in widths:
            calibrate(quantized.prepare(net, w, a), pool, config)

    ours()
    x = pool.floats()[:128]

    @torch.no_grad()
    def live():
        for _ in range(4):
            student(x)

    @torch.no_grad()
    def converted():
        done = quantized.convert(student)
        for _ in range(4):
            done(x)

    return [
        {"name": "ranges for four widths from one pass / one pass a width"} | in_turns(ours, naive, repeats),
        {"name": "evaluation with weights rounded once / in every pass (4 batches of 128)"}
        | in_turns(converted, live, repeats),
    ]


class Teaching:
    """A step of distillation, and what no such step can do without: both forward passes and the student's backward."""

    def __init__(self, name: str, batch: int, bf16: bool):
        self.bf16 = bf16
        self.teacher = build_network(name).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.plain = build_network(name).eval().to(memory_format=torch.channels_last)
        pool = generated(torch.rand(256, 3, 32, 32), "x")
        student = quantized.prepare(self.plain, 2, 4, edge_bits=4)
        calibrate(student, pool, KnowledgeWithin(steps=1, batch=128))
        precision = "bf16" if bf16 else "float32"
        self.config = DistillConfig(steps=1, batch=batch, rate=1e-6, precision=precision)
        self.work = Distillation(student, self.teacher, pool, self.config)
        self.x = pool.floats()[:batch]

    def step(self) -> None:
        """Draw, augment, mix, both passes with rounding and features, backward, SGD."""
        work = self.work
        train_student(work.student, work.loss, self.config, draw=work.draw, teacher=self.teacher, progress=False)

    def bare(self) -> None:
        """The float networks: teacher forward, student forward and backward."""
        with autocast(self.bf16):
            with torch.no_grad():
                target = self.teacher(self.x)
            logits = self.plain(self.x)
        self.plain.zero_grad(set_to_none=True)
        output_divergence(logits, target).backward()


def distillation(repeats: int, batch: int) -> list[dict]:
    rows = []
    for name in ("resnet20", "resnet44"):
        for bf16 in (False, True) if bf16_pays() else (False,):
            setting, label = Teaching(name, batch, bf16), f"{name}, batch {batch}, {'bf16' if bf16 else 'float32'}"
            turns = in_turns(setting.step, setting.bare, repeats)
            rows.append({"name": f"distillation step, 2w4a / bare passes ({label})"} | turns)
    return rows


def images(repeats: int) -> list[dict]:
    x, generator = torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8), torch.Generator().manual_seed(0)

    def one_by_one():
        for image in x:
            random_crop_and_mirror(image[None].float(), generator)

    return [
        {"name": "crop and mirror of 256 images at once / one by one"}
        | in_turns(lambda: random_crop_and_mirror(x.float(), generator), one_by_one, repeats)
    ]


def equalization(repeats: int) -> list[dict]:
    net = build_network("mobilenet_v2").eval()
    wiring = trace(net)
    sweeps = len(equalize(net, graph=wiring).mean_scale)

    def ours():
        equalize(net, graph=wiring)

    def naive():
        folded = fold_all(net, wiring)
        for _ in range(sweeps):
            for p in wiring.neighbours():
                afcle_step(folded.get_submodule(p.first), folded.get_submodule(p.last))

    row = {"name": f"equalisation on ranges / on weights (mobilenet_v2, {sweeps} sweeps)", "peers": EQUALIZATION_PEERS}
    return [row | in_turns(ours, naive, repeats)]


def range_search(repeats: int) -> list[dict]:
    x, few, whole = torch.randn(2000, 64, 8, 8), 2, 100

    def row(bits: int) -> dict:
        found = in_turns(
            lambda: search_range(x, bits, whole),
            lambda: search_range_by_loops(x, bits, few),
            min(repeats, 3),
        )
        factor = (whole / few) ** 2  # the double loop takes the same time for each of its pairs
        scaled = {k: found[k] * f for k, f in (("reference", factor), ("ratio", 1 / factor), ("spread", 1 / factor))}
        name = (
            f"range search by sums / double loop, {few**2} of {whole**2} pairs timed ({bits} bits, 2000 x 64 x 8 x 8)"
        )
        return {"name": name} | found | scaled

    return [row(bits) for bits in (8, 4)]


def reconstruction(repeats: int) -> list[dict]:
    """30 % of every pair of ResNet-20 solved: one Cholesky factor a layer, or a least-squares problem a channel."""
    net = load_network("resnet20")
    wires = trace(net)
    problems = []
    for pair in pruning.prunable(wires):
        whole = reconstruction_module.folded(net, wires, pair)
        gone = torch.zeros(len(whole.c), dtype=torch.bool)
        gone[pruning.kept_count(len(gone), 0.3) :] = True
        problems.append([Folded(whole.a[:, part], whole.c[part]) for part in (~gone, gone)])

    def ours():
        return [closed_form(left, lost) for left, lost in problems]

    def naive():
        for left, lost in problems:
            eye = torch.eye(len(left.c), dtype=torch.float64)
            stacked = torch.cat([left.a, ALPHA1**0.5 * left.c[None], ALPHA2**0.5 * eye])
            for j in range(len(lost.c)):
                wanted = torch.cat([lost.a[:, j], ALPHA1**0.5 * lost.c[j, None], torch.zeros(len(eye))])
                torch.linalg.lstsq(stacked, wanted[:, None])

    return [
        {"name": "UDFC, all layers of resnet20: one factor / least squares a channel"} | in_turns(ours, naive, repeats)
    ]


def rank_search(repeats: int) -> list[dict]:
    """Output Discrepancy of 500 sets of ranks on 256 images, and of a few of them by building one network after the other."""
    net, few, count = load_network("resnet20"), 5, 500
    pool = generated(torch.rand(256, 3, 32, 32), "x")
    wanted = outputs(net, pool)

    def ours(calibrated: bool):
        splits = factorization.Factorizer(net)
        rows = selection.Sampler(splits, compression.FRanDI(candidates=count)).rows()
        return selection.discrepancies(splits, rows, pool, calibrated=calibrated)

    def naive(calibrated: bool):
        splits = factorization.Factorizer(net)
        for row in selection.Sampler(splits, compression.FRanDI(candidates=few, branches=0)).rows():
            ranks = dict(zip(splits.layers, row))
            thin = factorization.Factorizer(net).network(ranks)
            if calibrated:
                batchnorm.recalibrate(thin, pool)
            selection.output_discrepancy(outputs(thin, pool), wanted)

    rows = []
    for calibrated in (False, True):
        found = in_turns(partial(ours, calibrated), partial(naive, calibrated), min(repeats, 1))
        factor = count / few  # the naive way takes the same time for each
        scaled = {k: found[k] * f for k, f in (("reference", factor), ("ratio", 1 / factor), ("spread", 1 / factor))}
        state = "calibrated" if calibrated else "as stored"
        name = f"{count} rank sets sharing prefixes / one by one, {few} timed (resnet20, 256 images, BatchNorm {state})"
        rows.append({"name": name} | found | scaled)
    return rows


def discrepancy(repeats: int) -> list[dict]:
    s, t = (torch.randn(64, 16, 32, 32).contiguous(memory_format=torch.channels_last) for _ in range(2))
    s = s.to(torch.bfloat16).requires_grad_()

    def ours():
        torch.autograd.grad(regression.fast_discrepancy(s, t), s)

    def naive():
        torch.autograd.grad(regression.discrepancy(s, t), s)

    return [
        {"name": "Feature Discrepancy in one function / by autograd (64 x 16 x 32 x 32)"}
        | in_turns(ours, naive, repeats)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1, help="1 as for the peers' figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = synthesis(options.repeats, options.batch) + distillation(options.repeats, options.batch)
    for part in (moments, calibration, images, equalization, range_search, reconstruction, rank_search, discrepancy):
        rows += part(options.repeats)
    machine = provenance() | {"threads": options.threads}
    for row in rows:
        row["machine"] = machine["machine"]
        peers = "".join(f"; {peer} {value}" for peer, value in row.get("peers", {}).items())
        print(f"{row['ratio']:8.3g} ± {row['spread']:.1g}  {row['name']}{peers}")
    path = files.write_atomically(files.BUILD / "bench.json", lambda p: p.write_text(json.dumps(rows, indent=1) + "\n"))
    print(f"written: {path.relative_to(files.BUILD.parent)}")


if __name__ == "__main__":
    main()
