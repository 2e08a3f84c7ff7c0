"""What the claims of The Knowledge Within need (Haroush, Hubara, Hoffer, Soudry, 2020).

Sources of images as in the records: real, BNS, BNS + I, I (Inception), G (Gaussian). Numbers that a claim gives in
brackets illustrate its order and are shown beside it; numbers in its sentence are sizes, each a part of its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

from scipy import stats

from ..measured import Measured, accuracy_without_images, number
from ..verdict import Effect
from . import Missing, Run, above, below, mean, within
from . import criterion as registered

SYNTHESIS, CALIBRATION = "01_kw_synthesis", "02_kw_calibration"
DISTILLATION, CORRESPONDENCE = "03_kw_distillation", "04_kw_correspondence"

SYNTHETIC = ("BNS", "BNS + I", "I", "G")
SOURCES = ("real", *SYNTHETIC)
EDGES_4W8A, EDGES_4W4A, FULL_4W4A, EDGES_2W4A = "4w8a, 8-bit edges", "4w4a, 8-bit edges", "4w4a", "2w4a, 4-bit edges"

BY_RESNET20 = "at the scale 'book' a ResNet-20 for the ResNet-44 to which the number belongs"
IMAGENET = "ten classes of CIFAR-10 and its networks for ImageNet and ResNet-18"

COUNT = 0.5
"""Counts are whole numbers: less than half of one is none."""

POINT, WHY_POINT = (
    1.0,
    "10,000 test images leave a difference of two networks half a point either side; it has to fit in",
)
CLASS_GAP = 1.0
WHY_CLASS_GAP = "table 1: one point at 4w4a (88.50 against 87.51) is what the paper counts as a worse source"
LITTLE, WHY_LITTLE = 2.95, "the widest gap from real to BNS images that tables 1 and 2 print (kw-c34)"

FIGURE_1 = {"steps": 1000}  # section 4.3
CALIBRATED = {"steps": 200}  # section 4.2
TAUGHT = {"steps": 1000, "short_steps": 50}  # the lengths of the profile 'reduced'; the paper has 16,000
WHOLE_SETS = {"reference_images": 50_000}  # table 4: entire training splits


# --- what several claims need


def criterion(claim: str, *, data: str = "CIFAR-10", **said) -> Callable[[Callable], Callable]:
    """Register a criterion that judges only runs on the data set its claim is about; else as `criteria.criterion`."""

    def register(check: Callable) -> Callable:
        @functools.wraps(check)
        def asked(run: Run):
            if (run.parameter("data") == "cifar100") != (data == "CIFAR-100"):
                raise Missing(f"the run is not on {data}.")
            return check(run)

        return registered(claim, **said)(asked)

    return register


def pairs(values: Mapping[str, Measured], order: Sequence[str]) -> dict[str, Effect]:
    """An order from best to worst: one part a neighbouring pair."""
    return {f"{a} over {b}": above(values[a], values[b]) for a, b in zip(order, order[1:])}


def slope(x: Sequence[float], y: Sequence[Measured | float]) -> Measured:
    """Of the straight line of least squares through (x, y)."""
    middle = sum(x) / len(x)
    square = sum((a - middle) ** 2 for a in x)
    return sum((a - middle) / square * b for a, b in zip(x, y)) + Measured(0.0)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's; zero where one of the two does not vary, and below zero where there is nothing to rank."""
    if len(x) < 2:
        return -1.0
    return float(stats.spearmanr(x, y).statistic) if len(set(x)) > 1 and len(set(y)) > 1 else 0.0


def imbalance(shares: Sequence[float]) -> float:
    """How far shares of classes are from even: log(K) minus their entropy, in nats."""
    return math.log(len(shares)) + sum(p * math.log(p) for p in shares if p > 0)


def fair_draws(classes: int, images: int) -> float:
    """The imbalance that 95 of 100 fair draws of so many images stay below (2 N times it is chi-squared)."""
    return float(stats.chi2.ppf(0.95, classes - 1)) / (2 * images)


def calibrated(run: Run, row: str, sources: Sequence[str] = SOURCES) -> dict[str, Measured]:
    """Accuracy after calibration by source, a row of table 1; a run's calibrations are averaged."""
    return {s: run.accuracy("top1", row, s) for s in sources}


def distilled(run: Run, sources: Sequence[str] = SOURCES) -> dict[str, Measured]:
    """Accuracy after distillation at 2w4a by source."""
    return {s: run.accuracy("distilled", s) for s in sources}


# --- the divergence (section 3.3)


@criterion(
    "kw-c01", chapter=SYNTHESIS, unit="nats", identity=True, tolerance=1e-12,
    why="float64 rounding of terms of size one",
)  # fmt: skip
def divergence_vanishes_only_for_equal_moments(run):
    """Section 3.3, eq. 1: the divergence is above zero for unequal pairs and zero for equal ones."""
    return {
        "unequal pairs": above(run.metric("divergence_bounds", "smallest")),
        "equal pairs": within(run.metric("divergence_bounds", "largest at equal pairs"), 0, 1e-12),
    }


@criterion(
    "kw-c02", chapter=SYNTHESIS, unit="nats", identity=True, tolerance=1e-9,
    why="float64 rounding of divergences of up to some thousand nats",
)  # fmt: skip
def closed_form_is_the_kl_of_two_normals(run):
    """Section 3.3, eq. 1: the closed form is the KL divergence from the measured to the stored normal."""
    return within(run.metric("divergence_against_torch", "largest difference"), 0, 1e-9)


@criterion(
    "kw-c03", chapter=SYNTHESIS, unit="relative difference", identity=True, tolerance=1e-4,
    why="float32: a variance as a difference of squares loses about three of its seven digits",
)  # fmt: skip
def objective_is_the_plain_average_over_layers(run):
    """Section 3.3, eqs. 2 and 3: J_KL is the plain mean of the layers' divergences, whichever way round they are."""
    found = {d: run.metric("objective", d) for d in ("eq. 1", "reverse")}
    return {d: within(v["fused"] / v["with hooks"], 1, 1e-4) for d, v in found.items()}


@criterion("kw-c04", chapter=SYNTHESIS, unit="count", identity=True, tolerance=COUNT, why="counts are whole numbers")
def small_constant_keeps_the_divergence_finite(run):
    """Section 3.3: with 1e-8 the divergence and its gradient are finite where nothing varies; without it they are not."""
    found = run.metric("no_variance")
    return {
        "channels without variance": above(found["channels"], COUNT),
        "finite with 1e-8": below(found["not finite with 1e-8"], COUNT),
        "not finite without": above(found["not finite without"], COUNT),
    }


@criterion(
    "kw-c05", chapter=SYNTHESIS, unit="decades", tolerance=1.0,
    why="'far under the random start' is read as less than a tenth of it: one decade",
)  # fmt: skip
def steps_drive_statistics_towards_the_stored_ones(run):
    """Section 3.3: gradient steps on the input bring J_KL far under its value at the random start."""
    return above(math.log10(run.metric("j_kl_start") / run.metric("j_kl", "BNS")), 1.0)


@criterion("kw-c06", chapter=SYNTHESIS, unit="count", identity=True, tolerance=COUNT, why="counts are whole numbers")
def synthesis_leaves_the_network_alone(run):
    """Algorithm 1, lines 4 and 5: nothing in the state moves, no parameter has a gradient, BatchNorm does not train."""
    names = ("tensors changed", "parameters with a gradient", "layers in training mode")
    return {name: below(run.metric("untouched", name), COUNT) for name in names}


@criterion(
    "kw-c07", chapter=SYNTHESIS, unit="of the range of an image", identity=True, tolerance=1e-6,
    why="float32 rounding where a copy is resampled",
)  # fmt: skip
def inputs_are_clipped_at_every_step(run):
    """Section 4.1, algorithm 1 line 7: what the network sees lies in [0, 1] at every step of every run."""
    return {
        "lowest": above(run.metric("network_input", "lowest"), -1e-6),
        "highest": below(run.metric("network_input", "highest"), 1 + 1e-6),
    }


@criterion("kw-c08", chapter=SYNTHESIS, unit="count", identity=True, tolerance=COUNT, why="counts are whole numbers")
def augmentation_multiplies_the_forward_batch_by_four(run):
    """Section 4.1: four copies pass the network, the optimised images stay as many, and every copy's gradient arrives."""
    found = run.metric("copies")
    return {
        "forward batch": within(found["forward batch"], 4 * found["images"], COUNT),
        "images optimised": within(found["images returned"], found["images"], COUNT),
        "copies that reach every image": within(found["copies that reach every image"], 4, COUNT),
    }


@criterion(
    "kw-c09", chapter=SYNTHESIS, unit="of its value at logit zero", identity=True, tolerance=1e-4,
    why="the exponential leaves e^-10, less than half of this, after ten temperatures",
)  # fmt: skip
def class_loss_fades_with_the_logit(run):
    """Section 3.2: loss and slope fall all along a rising grid of logits, down to nothing, so none is pushed for ever."""
    found = run.metric("class_term")
    return {
        "loss falls": below(found["largest rise of the loss"]),
        "slope falls": below(found["largest rise of the slope's size"]),
        "loss left": below(found["loss left"], 1e-4),
        "slope left": below(found["slope left"], 1e-4),
    }


# --- the schemes and figure 1


@criterion(
    "kw-c10", chapter=SYNTHESIS, unit="of a probability", tolerance=0.9, why="high confidence is read as nine in ten"
)
def inception_images_are_classified_with_confidence(run):
    """Sections 3.2 and 5: mean highest probability of Inception images, by itself and beside BNS and real images."""
    sure = {s: run.metric("described", s, "confidence") for s in ("I", "BNS", "real")}
    return {"high": above(sure["I"], 0.9)} | {f"over {s}": above(sure["I"], sure[s]) for s in ("BNS", "real")}


@criterion(
    "kw-c11", chapter=SYNTHESIS, unit="times, and rank correlation", tolerance=0.05, needs=FIGURE_1,
    why="a move counts from 5 %; 'a little' is less than a halving; after a minimum even noise ranks a little upwards, so "
    "the rest has to rank by more than 0.5",
)  # fmt: skip
def divergence_dips_and_climbs_under_inception(run):
    """Figure 1a: under the Inception objective J_KL first improves a little, then climbs for the rest of the run."""
    curve = run.metric("figure_1", "J_KL", "I")
    lowest = curve.index(min(curve))
    rest = curve[lowest:]
    return {
        "improves": above(curve[0] / curve[lowest], 1.05),
        "a little": below(curve[0] / curve[lowest], 2),
        "climbs": above(curve[-1] / curve[lowest], 1.05),
        "for the rest of the run": above(rank_correlation(range(len(rest)), rest), 0.5),
    }


@criterion("kw-c12", chapter=SYNTHESIS, unit="of the start", needs=FIGURE_1)
def divergence_alone_lowers_the_smoothness_loss(run):
    """Figure 1b: the smoothness loss falls in a run that minimises J_KL only."""
    curve = run.metric("figure_1", "smoothness", "BNS")
    return below(curve[-1] / curve[0], 1)


@criterion("kw-c13", chapter=SYNTHESIS, unit="decades", needs=FIGURE_1)
def smoothness_alone_keeps_no_statistics(run):
    """Section 4.3: with the prior J_KL ends above that of BNS, and the prior undoes less than half of the drift."""
    end = {name: math.log10(run.metric("figure_1", "J_KL", name, -1)) for name in ("BNS", "I", "I without smoothness")}
    return {
        "above BNS": above(end["I"], end["BNS"]),
        "most of the drift is left": above(end["I"] - end["BNS"], end["I without smoothness"] - end["I"]),
    }


@criterion(
    "kw-c14", chapter=CALIBRATION, unit="times", stand_in=IMAGENET, tolerance=0.18,
    why="the claim's own numbers: with the class term 0.059 against 0.050, 18 % more, is no longer close",
)  # fmt: skip
def bns_fits_like_real_images_and_the_class_term_costs(run):
    """Table 6: J_KL of BNS images is close to that of real ones; with the class term it is higher."""
    level = run.metric("j_kl")
    return {
        "BNS close to real": within(level["BNS"] / level["real"], 1, 0.18),
        "class term higher": above(level["BNS + I"] / level["BNS"], 1),
    }


@criterion(
    "kw-c15", chapter=SYNTHESIS, unit="standard deviations of the data", tolerance=0.05,
    why="three times the sampling error of the moments of a thousand images",
)  # fmt: skip
def gaussian_images_have_the_moments_of_the_data(run):
    """Section 3.1: mean and deviation of each channel of Gaussian inputs are those of real images, not only of a file."""
    made, real = (run.metric("input_moments", s) for s in ("G", "real"))
    return {
        what: below(max(abs(a - b) / s for a, b, s in zip(made[what], real[what], real["std"])), 0.05)
        for what in ("mean", "std")
    }


@criterion(
    "kw-c16",
    chapter=SYNTHESIS,
    unit="decades",
    tolerance=2.0,
    why="'next to nothing' is read as one hundredth: two decades",
)
def gaussian_images_cost_next_to_nothing(run):
    """Section 3.1: seconds for 1,000 Gaussian inputs beside those of the cheapest optimised scheme."""
    seconds = run.metric("seconds_per_thousand")
    return above(math.log10(min(seconds[s] for s in ("BNS", "BNS + I", "I")) / seconds["G"]), 2)


@criterion("kw-c65", chapter=SYNTHESIS, unit="times")
def class_images_are_smoother_with_statistics(run):
    """Appendix D, figures 3 and 4: the total variation of Inception images over that of BNS + I images."""
    variation = {s: run.metric("described", s, "total variation") for s in ("I", "BNS + I")}
    return above(variation["I"] / variation["BNS + I"], 1)


@criterion("kw-c67", chapter=SYNTHESIS, unit="points", tolerance=CLASS_GAP, why=WHY_CLASS_GAP)
def squared_errors_can_replace_the_divergence(run):
    """Section 3.3: images made with the squared error of the moments calibrate 4w4a no worse than those of eq. 1."""
    mse, kl = (run.accuracy("losses_4w4a_top1", loss) for loss in ("moment MSE", "eq. 1"))
    return above(mse, kl - CLASS_GAP)


# --- calibration (tables 1, 2 and 5)


@criterion("kw-c17", chapter=CALIBRATION, unit="points", needs=CALIBRATED, tolerance=0.2, why="the claim's own number")
def mild_calibration_is_as_good_on_synthetic_images(run):
    """Table 1, 4w8a with 8-bit edges: every synthetic source lies within 0.2 points of real images, and above them."""
    top1 = calibrated(run, EDGES_4W8A)
    return {f"{s} within 0.2": within(top1[s], top1["real"], 0.2) for s in SYNTHETIC} | {
        f"{s} above real": above(top1[s], top1["real"]) for s in SYNTHETIC
    }


SMALLER = "a ResNet-20 of CIFAR-100 for the Wide-ResNet-28-10"


@criterion(
    "kw-c18", chapter=CALIBRATION, unit="points", needs=CALIBRATED, data="CIFAR-100", stand_in=SMALLER, tolerance=0.19,
    why="the claim's own range, 82.96 to 83.15",
)  # fmt: skip
def eight_bits_hardly_mind_the_source(run):
    """Table 1, CIFAR-100 at 8w8a: all five sources lie within 0.19 points of each other, and noise is the highest."""
    top1 = calibrated(run, "8w8a")
    others = max((top1[s] for s in SOURCES if s != "G"), key=number)
    lowest = min(top1.values(), key=number)
    return {
        "within 0.19": below(max(top1["G"], others, key=number) - lowest, 0.19),
        "G highest": above(top1["G"], others),
    }


@criterion("kw-c19", chapter=CALIBRATION, unit="points", needs=CALIBRATED, tolerance=CLASS_GAP, why=WHY_CLASS_GAP)
def order_of_sources_at_4w4a(run):
    """Table 1, 4w4a: real, BNS + I, BNS, then Gaussian and Inception about equal."""
    top1 = calibrated(run, FULL_4W4A)
    return pairs(top1, ("real", "BNS + I", "BNS", "G")) | {
        "BNS over I": above(top1["BNS"], top1["I"]),
        "G and I about equal": within(top1["G"], top1["I"], CLASS_GAP),
    }


@criterion(
    "kw-c20", chapter=CALIBRATION, unit="points", needs=CALIBRATED, data="CIFAR-100", stand_in=SMALLER, tolerance=3.5,
    why="'about 3' is read as less than 3.5; 13 is the claim's own number",
)  # fmt: skip
def order_of_sources_on_cifar100(run):
    """Table 1, CIFAR-100 at 4w4a: real, both BNS variants about 3 points under it, then Inception and Gaussian far off."""
    parts = {}
    for row in (EDGES_4W4A, FULL_4W4A):
        top1 = calibrated(run, row)
        for s in ("BNS", "BNS + I"):
            gap = top1["real"] - top1[s]
            parts |= {f"{row}: real over {s}": above(gap), f"{row}: {s} about 3 under": below(gap, 3.5)}
        parts |= {f"{row}: {s} more than 13 under": above(top1["real"] - top1[s], 13) for s in ("I", "G")}
        parts[f"{row}: I over G"] = above(top1["I"], top1["G"])
    return parts


@criterion("kw-c21", chapter=CALIBRATION, unit="points", needs=CALIBRATED)
def sources_matter_more_at_lower_precision(run):
    """Table 1, caption: best minus worst source grows from 8w8a to 4w8a to 4w4a."""
    spread = {}
    for row in ("8w8a", EDGES_4W8A, FULL_4W4A):
        top1 = calibrated(run, row).values()
        spread[row] = max(top1, key=number) - min(top1, key=number)
    return pairs(spread, (FULL_4W4A, EDGES_4W8A, "8w8a"))


@criterion(
    "kw-c22", chapter=CALIBRATION, unit="points", needs=CALIBRATED, stand_in=BY_RESNET20, tolerance=1.01,
    why="the claim's own range, 18.48 to 19.49",
)  # fmt: skip
def calibration_leaves_two_bits_near_19_percent(run):
    """Table 1, row 2w4a: every source near 19 %, and all of them within the printed range of each other."""
    top1 = calibrated(run, EDGES_2W4A)
    spread = max(top1.values(), key=number) - min(top1.values(), key=number)
    return {f"{s} near 19": within(top1[s], 19, 1.01) for s in SOURCES} | {
        "whatever the source": below(spread, 1.01),
    }


@criterion(
    "kw-c23", chapter=CALIBRATION, unit="points", needs=CALIBRATED, tolerance=POINT, why=WHY_POINT,
    stand_in=f"CIFAR-10 alone, without CIFAR-100; {BY_RESNET20}",
)  # fmt: skip
def eight_bit_edges_raise_accuracy(run):
    """Tables 1 and 5: with real images, 8-bit edges raise 4w4a, on CIFAR-10 from 89.19 to 91.64."""
    gain = run.accuracy("top1", EDGES_4W4A, "real") - run.accuracy("top1", FULL_4W4A, "real")
    return {"raises": above(gain), "by 2.45": within(gain, 91.64 - 89.19, POINT)}


@criterion("kw-c27", chapter=CALIBRATION, unit="points", needs=CALIBRATED, stand_in="one network for three")
def bns_is_the_best_single_objective(run):
    """Tables 1 and 2: BNS images calibrate better than Inception and Gaussian ones at 4w4a."""
    top1 = calibrated(run, FULL_4W4A)
    return {f"over {s}": above(top1["BNS"], top1[s]) for s in ("I", "G")}


@criterion(
    "kw-c28", chapter=CALIBRATION, unit="points", needs=CALIBRATED, tolerance=0.8, why="the claim's own number",
    stand_in="CIFAR-10 for CIFAR-100 and ImageNet, which the paper's 8w8a rows are about",
)  # fmt: skip
def eight_bits_without_data_cost_little(run):
    """Tables 1 and 2: every synthetic source at 8w8a is at most 0.8 points under the float network."""
    top1, whole = calibrated(run, "8w8a", SYNTHETIC), run.accuracy("float_top1")
    return {s: below(whole - top1[s], 0.8) for s in SYNTHETIC}


@criterion(
    "kw-c29", chapter=CALIBRATION, unit="points", needs=CALIBRATED, stand_in=IMAGENET, tolerance=0.2,
    why="the distance at which the paper calls sources alike (kw-c17); 0.8 under float is the most it prints (kw-c28)",
)  # fmt: skip
def eight_bits_need_no_data(run):
    """Section 4.2: at 8w8a BNS images do what real ones do for the calibration, and the network works as in float."""
    bns, real = (run.accuracy("top1", "8w8a", s) for s in ("BNS", "real"))
    return {
        "no worse than with data": above(bns, real - 0.2),
        "near the float network": above(bns, run.accuracy("float_top1") - 0.8),
    }


def gained_by_width(run: Run, name: str, row: str) -> Measured:
    """Points that the smoothing kernel of sigma 1 gains over that of sigma 0.375 (table 5)."""
    return run.accuracy("top1", row, name) - run.accuracy("kernel_top1", name, row, "0.375")


@criterion(
    "kw-c59", chapter=CALIBRATION, unit="points", needs=CALIBRATED, stand_in=BY_RESNET20, tolerance=POINT, why=WHY_POINT
)
def inception_is_sensitive_to_the_kernel(run):
    """Table 5: at 4w4a Inception falls from 89.22 at sigma 0.375 to 87.44 at 1.0."""
    loss = -gained_by_width(run, "I", FULL_4W4A)
    return {"falls": above(loss), "by 1.78": within(loss, 89.22 - 87.44, POINT)}


@criterion("kw-c60", chapter=CALIBRATION, unit="points", needs=CALIBRATED)
def better_kernel_depends_on_precision(run):
    """Table 5: Inception prefers 0.375 at 4w4a and 1.0 at 4w8a, and BNS + I does the opposite."""
    return {
        "I, 4w4a: 0.375": below(gained_by_width(run, "I", FULL_4W4A)),
        "I, 4w8a: 1.0": above(gained_by_width(run, "I", EDGES_4W8A)),
        "BNS + I, 4w4a: 1.0": above(gained_by_width(run, "BNS + I", FULL_4W4A)),
        "BNS + I, 4w8a: 0.375": below(gained_by_width(run, "BNS + I", EDGES_4W8A)),
    }


@criterion("kw-c61", chapter=CALIBRATION, unit="points", needs=CALIBRATED)
def statistics_steady_the_kernel(run):
    """Table 5: BNS + I moves less than Inception at 4w4a and at 4w8a, but more at 4w4a with 8-bit edges."""
    rows = (FULL_4W4A, EDGES_4W8A, EDGES_4W4A)
    less = {row: abs(gained_by_width(run, "I", row)) - abs(gained_by_width(run, "BNS + I", row)) for row in rows}
    return {
        "less at 4w4a": above(less[FULL_4W4A]),
        "less at 4w8a": above(less[EDGES_4W8A]),
        "not less at 4w4a, 8-bit edges": below(less[EDGES_4W4A]),
    }


SYNTHESIS_PASSES = 1000 * 4  # steps of section 4.3, copies of section 4.1
CALIBRATION_IMAGES = 200 * 256  # section 4.2
DISTILLATION_IMAGES = 16_000 * 512  # table 1, ResNet-44
SET_SIZES = {"50 a class": 500, "4,000 a class": 40_000}  # table 1, CIFAR-10


@criterion("kw-c66", chapter=CALIBRATION, unit="decades")
def making_images_is_the_main_expense(run):
    """Section 5: this machine's speeds at the paper's lengths: synthesis takes longer than calibration and distillation."""
    speed = run.metric("images_per_second")
    made = {size: n * SYNTHESIS_PASSES / speed["synthesis"] for size, n in SET_SIZES.items()}
    taught = DISTILLATION_IMAGES / speed["distillation"]
    longer = {f"than distillation, {size}": s / taught for size, s in made.items()}
    longer["than calibration, 50 a class"] = made["50 a class"] * speed["calibration"] / CALIBRATION_IMAGES
    return {name: above(math.log10(times)) for name, times in longer.items()}


@criterion("kw-c68", chapter=CALIBRATION, unit="points", needs=CALIBRATED)
def better_calibrators_add_to_the_results(run):
    """Section 4.2: percentiles, least squared error and bias correction gain at 4w4a, on BNS and on real images."""
    parts = {}
    for source in ("BNS", "real"):
        plain = run.accuracy("top1", FULL_4W4A, source)
        for rule in ("percentiles", "least squared error", "least squared error, biases corrected"):
            parts[f"{rule}, {source}"] = above(run.accuracy("calibrators_4w4a", rule, source), plain)
    return parts


# --- distillation (tables 1 and 2, figure 2)


@criterion(
    "kw-c30", chapter=DISTILLATION, unit="points", needs=TAUGHT, stand_in=BY_RESNET20, tolerance=POINT, why=WHY_POINT
)
def distillation_repairs_a_collapsed_network(run):
    """Table 1: with 50 BNS images a class, 2w4a goes from about 19 % to 88.52 %."""
    before, after = run.accuracy("calibrated", "BNS"), run.accuracy("distilled", "BNS")
    return {
        "repairs": above(after, before),
        "from about 19": within(before, 19, POINT),
        "to 88.52": within(after, 88.52, POINT),
    }


@criterion(
    "kw-c31", chapter=DISTILLATION, unit="points", needs=TAUGHT,
    stand_in="50 images a class alone, without the 4,000 a class",
)  # fmt: skip
def order_of_sources_after_distillation(run):
    """Table 1, CIFAR-10: real, BNS, BNS + I, Inception, Gaussian."""
    return pairs(distilled(run), ("real", "BNS", "BNS + I", "I", "G"))


@criterion(
    "kw-c32", chapter=DISTILLATION, unit="points", needs=TAUGHT, data="CIFAR-100",
    stand_in=f"{SMALLER}; one set size of two",
)  # fmt: skip
def order_of_sources_after_distillation_on_cifar100(run):
    """Table 1, CIFAR-100 distillation at 4w4a: real, BNS, BNS + I, Gaussian, Inception."""
    return pairs(distilled(run), ("real", "BNS", "BNS + I", "G", "I"))


@criterion(
    "kw-c34", chapter=DISTILLATION, unit="points", needs=TAUGHT, tolerance=POINT, why=WHY_POINT,
    stand_in=f"one of six gaps: CIFAR-10 at 50 a class; {BY_RESNET20}",
)  # fmt: skip
def gap_from_real_to_bns(run):
    """Tables 1 and 2: on CIFAR-10 real images are 1.75 points better than BNS images at 50 a class."""
    gap = run.accuracy("distilled", "real") - run.accuracy("distilled", "BNS")
    return {"real over BNS": above(gap), "by 1.75": within(gap, 1.75, POINT)}


@criterion(
    "kw-c70", chapter=DISTILLATION, unit="points", needs=TAUGHT, stand_in="CIFAR-10 at one set size for all rows",
    tolerance=LITTLE, why=WHY_LITTLE,
)  # fmt: skip
def best_scheme_is_comparable_with_real_images(run):
    """Abstract, section 5: BNS, the paper's best scheme, is no further under real images than the paper's own rows."""
    return above(run.accuracy("distilled", "BNS"), run.accuracy("distilled", "real") - LITTLE)


def set_sizes(run: Run) -> list[str]:
    """How many images the sets of figure 2a have, from small to large."""
    sizes = [n for n in run.metric("by_size") if n.isdigit()]
    if len(sizes) < 3:
        raise Missing("the run compares no three sizes of sets.")
    return sorted(sizes, key=int)


@criterion(
    "kw-c35", chapter=DISTILLATION, unit="points a tenfold", needs=TAUGHT,
    stand_in="5 to 50 images a class for 50 to 4,000, so the printed gains are not tested",
)  # fmt: skip
def more_images_help(run):
    """Table 1, figure 2a: accuracy rises with the number of images, BNS and real."""
    sizes = set_sizes(run)
    decades = [math.log10(int(n)) for n in sizes]
    return {s: above(slope(decades, [run.accuracy("by_size", n, s) for n in sizes])) for s in ("BNS", "real")}


@criterion("kw-c36", chapter=DISTILLATION, unit="points a decade of J_KL", needs=TAUGHT)
def better_statistics_teach_better(run):
    """Figure 2b: accuracy rises as the J_KL of the snapshot falls, also without the first, which is nearly noise."""
    moments = sorted(run.metric("snapshots"), key=int)
    level = [-math.log10(run.metric("snapshots", m, "j_kl")) for m in moments]
    top1 = [run.accuracy("snapshots", m, "top1") for m in moments]
    return {"all": above(slope(level, top1)), "without the first step": above(slope(level[1:], top1[1:]))}


@criterion(
    "kw-c37", chapter=DISTILLATION, unit="points", needs=TAUGHT, stand_in="5 to 50 images a class for 50 to 4,000",
    tolerance=LITTLE, why=WHY_LITTLE,
)  # fmt: skip
def bns_is_a_little_under_real_at_every_size(run):
    """Figure 2a: at equal set size BNS images are under real ones, by a little, at every size."""
    parts = {}
    for size, n in zip(("smallest", "middle", "largest"), set_sizes(run)):
        gap = run.accuracy("by_size", n, "real") - run.accuracy("by_size", n, "BNS")
        parts |= {f"under, {size} set": above(gap), f"a little, {size} set": below(gap, LITTLE)}
    return parts


# --- noise as a teacher, and the recipe (section 4.2)


@criterion("kw-c38", chapter=DISTILLATION, unit="points", needs=TAUGHT)
def noise_teaches_with_both_ingredients(run):
    """Section 4.2: distillation on noise, BatchNorm frozen and with the IQ loss, improves on the calibrated start."""
    return above(run.accuracy("gaussian_4w4a", "frozen, with IQ"), run.accuracy("gaussian_4w4a", "only calibrated"))


@criterion("kw-c39", chapter=DISTILLATION, unit="points", needs=TAUGHT)
def leaving_out_either_breaks_it(run):
    """Section 4.2: noise works with both ingredients; without either one the student ends under that and its start."""
    start, both = (run.accuracy("gaussian_4w4a", name) for name in ("only calibrated", "frozen, with IQ"))
    line = min(start, both, key=number)
    return {
        "works with both": above(both, start),
        "breaks without the IQ loss": below(run.accuracy("gaussian_4w4a", "frozen, without IQ"), line),
        "breaks without frozen BatchNorm": below(run.accuracy("gaussian_4w4a", "adapting, with IQ"), line),
    }


@criterion(
    "kw-c40", chapter=DISTILLATION, unit="points", needs=TAUGHT, tolerance=0.5,
    why="destroyed is read as: less than half of the calibrated accuracy is left",
)  # fmt: skip
def adapting_to_noise_destroys_accuracy(run):
    """Section 3.1: BatchNorm that adapts to Gaussian inputs destroys accuracy on real images; frozen it does not."""
    half = 0.5 * run.accuracy("gaussian_4w4a", "only calibrated")
    return {
        "adapting destroys": below(run.accuracy("gaussian_4w4a", "adapting, with IQ"), half),
        "frozen avoids it": above(run.accuracy("gaussian_4w4a", "frozen, with IQ"), half),
    }


@criterion("kw-c41", chapter=DISTILLATION, unit="points, and times less steady", needs=TAUGHT)
def both_ingredients_help_and_steady(run):
    """Section 4.2: the IQ loss and the mixing each gain accuracy and make the loss steadier, real and BNS images."""
    parts = {}
    for source in ("real", "BNS"):
        top1, unsteady = run.accuracy("recipe", full := f"{source}, as in the paper"), run.metric("unsteadiness", full)
        for without in ("no mixing", "no IQ loss"):
            name = f"{source}, {without}"
            parts[f"better than {name}"] = above(top1, run.accuracy("recipe", name))
            parts[f"steadier than {name}"] = above(run.metric("unsteadiness", name) / unsteady, 1)
    return parts


@criterion("kw-c42", chapter=DISTILLATION, unit="points", needs=TAUGHT, tolerance=POINT, why=WHY_POINT)
def freezing_weight_ranges_is_unnecessary(run):
    """Section 4.2: with activation ranges frozen, freezing those of the weights as well gains nothing to speak of."""
    return above(
        run.accuracy("recipe", "BNS, as in the paper"), run.accuracy("recipe", "BNS, weight ranges frozen") - POINT
    )


@criterion("kw-c69", chapter=DISTILLATION, unit="points", needs=TAUGHT)
def intervals_are_a_promising_route_for_noise(run):
    """Section 4.2: interval by interval, noise teaches better than through the whole network, and better than not at all."""
    interval = run.accuracy("intervals", "interval by interval on noise")
    return {
        "over the whole network": above(interval, run.accuracy("intervals", "whole network on noise")),
        "over the calibrated start": above(interval, run.accuracy("intervals", "calibrated on noise")),
    }


# --- labels or a teacher, mixtures, classes (table 6, appendices E and F)

ALL_OF_CIFAR10 = 50_000


def one_pass_over_all(run: Run) -> None:
    """A schedule that does not see the whole set once cannot tell all images from a part of them."""
    if 2 * run.parameter("short_steps") * run.parameter("batch") < run.metric("labels_or_teacher", "all"):
        raise Missing("the long schedule of this run is shorter than one pass over all its images.")


def as_often_as_the_paper(run: Run) -> None:
    """A student that still learns minds its length: table 6 sees its 100,000 images 113 times (44,000 steps of 256)."""
    seen = run.parameter("short_steps") * run.parameter("batch") / run.metric("labels_or_teacher", "fraction")
    if seen < 44_000 * 256 / 100_000:
        raise Missing(f"the short schedule of this run sees its images {seen:.0f} times, the paper's 113 times.")


@criterion("kw-c44", chapter=DISTILLATION, unit="points", needs=TAUGHT, stand_in=IMAGENET)
def labels_win_on_all_images(run):
    """Table 6: on the whole real set cross entropy beats distillation."""
    one_pass_over_all(run)
    if run.metric("labels_or_teacher", "all") < ALL_OF_CIFAR10:
        raise Missing("the run has no more than a part of the training set.")
    return above(
        *(run.accuracy("labels_or_teacher", "top1", "all, long", o) for o in ("cross entropy", "distillation"))
    )


@criterion("kw-c45", chapter=DISTILLATION, unit="points", needs=TAUGHT, stand_in=IMAGENET)
def the_teacher_wins_on_a_fraction(run):
    """Table 6: on a fraction of the real images the order turns round."""
    return above(
        *(run.accuracy("labels_or_teacher", "top1", "fraction, short", o) for o in ("distillation", "cross entropy"))
    )


@criterion("kw-c46", chapter=DISTILLATION, unit="points", needs=TAUGHT, stand_in=IMAGENET)
def labels_lose_with_fewer_steps_and_images(run):
    """Table 6: cross entropy loses accuracy with fewer steps, and again with fewer images."""
    one_pass_over_all(run)
    rows = ("all, long", "all, short", "fraction, short")
    return pairs({row: run.accuracy("labels_or_teacher", "top1", row, "cross entropy") for row in rows}, rows)


@criterion(
    "kw-c47", chapter=DISTILLATION, unit="points", needs=TAUGHT, stand_in=IMAGENET, tolerance=POINT, why=WHY_POINT
)
def the_teacher_hardly_minds_fewer_steps_and_images(run):
    """Table 6: distillation on all images, long, and on a fraction, short, differ by next to nothing."""
    one_pass_over_all(run)
    as_often_as_the_paper(run)
    long, short = (
        run.accuracy("labels_or_teacher", "top1", r, "distillation") for r in ("all, long", "fraction, short")
    )
    return within(long, short, POINT)


@criterion("kw-c48", chapter=DISTILLATION, unit="points squared", needs=TAUGHT, stand_in=IMAGENET)
def a_mixture_lies_between(run):
    """Table 6: half BNS and half BNS + I lies between the pure sets: the product of its distances is positive."""
    bns, half, both = (run.accuracy("mixtures", s, "top1") for s in ("BNS", "half and half", "BNS + I"))
    return above((half - bns) * (both - half))


@criterion("kw-c49", chapter=DISTILLATION, unit="points", needs=TAUGHT, stand_in=IMAGENET)
def accuracy_falls_as_divergence_rises(run):
    """Table 6: of three synthetic sets, the one with the lower J_KL teaches better, pair by pair."""
    found = run.metric("mixtures")
    low, middle, high = (run.accuracy("mixtures", s, "top1") for s in sorted(found, key=lambda s: found[s]["j_kl"]))
    return {"lowest J_KL over middle": above(low, middle), "middle J_KL over highest": above(middle, high)}


@criterion(
    "kw-c50", chapter=DISTILLATION, unit="points", needs=TAUGHT, tolerance=0.45, why="the claim's own ranges",
    stand_in="one calibration row of four and one distillation row of six",
)  # fmt: skip
def class_term_brings_no_consistent_gain(run):
    """Section 3.4: the class term gains 0.16 to 0.60 in calibration at 4w4a and loses 0.19 to 1.09 in distillation."""
    gain = run.accuracy("calibrated_4w4a", "BNS + I") - run.accuracy("calibrated_4w4a", "BNS")
    loss = run.accuracy("distilled", "BNS") - run.accuracy("distilled", "BNS + I")
    return {
        "calibration: better": above(gain),
        "calibration: by 0.16 to 0.60": within(gain, (0.60 + 0.16) / 2, (0.60 - 0.16) / 2),
        "distillation: worse": above(loss),
        "distillation: by 0.19 to 1.09": within(loss, (1.09 + 0.19) / 2, (1.09 - 0.19) / 2),
    }


@criterion(
    "kw-c63", chapter=DISTILLATION, unit="nats of balance, and points", needs=TAUGHT, stand_in=IMAGENET, tolerance=POINT,
    why=WHY_POINT,
)  # fmt: skip
def balance_brings_no_accuracy(run):
    """Appendix E: BNS + I images are better balanced over the classes, and the student gains nothing by it."""
    bns, both = (imbalance(run.metric("class_share", s)) for s in ("BNS", "BNS + I"))
    gain = run.accuracy("distilled", "BNS + I") - run.accuracy("distilled", "BNS")
    return {"better balanced": above(bns, both), "no gain": below(gain, POINT)}


@criterion(
    "kw-c64", chapter=DISTILLATION, unit="percent of the float accuracy, and points", needs=TAUGHT, stand_in=IMAGENET
)
def rare_classes_lose_less_with_the_class_term(run):
    """Appendix F, figure 5d: on degraded classes that BNS images show rarely BNS + I loses less, over all it is lower."""
    lost = {s: run.metric("relative_loss_by_rarity", s) for s in ("BNS", "BNS + I")}
    share = run.metric("class_share", "BNS")
    rare = sum(p < 1 / len(share) for p in share)  # the lists go from rare to frequent
    degraded = [k for k in range(rare) if max(v[k] for v in lost.values()) > 0]
    if not degraded:
        raise Missing("no rare class loses accuracy in this run.")
    kept = {s: mean(_kept(v[k], run.parameter("test_images") / len(share)) for k in degraded) for s, v in lost.items()}
    return {
        "rare classes lose less": above(kept["BNS + I"], kept["BNS"]),
        "overall lower": below(run.accuracy("distilled", "BNS + I"), run.accuracy("distilled", "BNS")),
    }


def _kept(lost: float, images: float) -> Measured:
    """What a class keeps of its float accuracy, in percent, with the scatter of a share of so many images."""
    kept = accuracy_without_images(min(100.0, 100 - lost), images)
    return Measured(100 - lost, None, kept.variance)


# --- correspondence of data sets (tables 3 and 4, section 5)

NO_DATA_SETS = ("random", "CIFAR-10, test")
_OTHERS = "networks of Fashion-MNIST and of small digits for those of MNIST and SVHN"
OTHER_NETWORKS = {
    "book": "networks of Fashion-MNIST and of small digits for those of CIFAR-100, MNIST and SVHN",
    "reduced": _OTHERS,
    "paper": _OTHERS,
}


def owners(run: Run) -> list[str]:
    """The networks of a run, by the data set each was trained on."""
    return list(run.metric("pooled"))


def data_sets(run: Run, owner: str) -> dict[str, float]:
    """J_KL of the data sets under the network of `owner`, without its random input and its test images."""
    return {name: v for name, v in run.metric("pooled", owner).items() if name not in NO_DATA_SETS}


@criterion(
    "kw-c51", chapter=CORRESPONDENCE, unit="of the lowest other set", needs=WHOLE_SETS, stand_in=OTHER_NETWORKS,
    tolerance=0.05, why="the paper's own exception is 0.023 against 0.022, just under 5 %",
)  # fmt: skip
def own_training_set_is_about_the_lowest(run):
    """Tables 3 and 4: each network gives about its lowest divergence to its own training set."""
    parts = {}
    for owner in owners(run):
        row = data_sets(run, owner)
        parts[owner] = below(row.pop(owner) / min(row.values()), 1.05)
    return parts


@criterion(
    "kw-c52", chapter=CORRESPONDENCE, unit="times the reference", needs=WHOLE_SETS,
    stand_in={
        "book": "one network of two, other natural images for CIFAR-100 and STL10, small digits for MNIST and SVHN",
        "reduced": "other natural images for STL10, small digits for MNIST and SVHN",
        "paper": "other natural images for STL10, small digits for MNIST and SVHN",
    },
    tolerance=1.3, why="the claim's own bounds: 1.3, and 3.9 to 7.9",
)  # fmt: skip
def natural_images_stay_near_and_numbers_do_not(run):
    """Table 3: under CIFAR networks natural sets stay within 1.3 times the reference, numbers are 3.9 to 7.9 times it."""
    parts = {}
    for owner in [o for o in ("CIFAR-10", "CIFAR-100") if o in owners(run)]:
        row = {name: v / run.metric("pooled", owner, owner) for name, v in data_sets(run, owner).items()}
        near = [row[n] for n in ("natural", "CIFAR-10", "CIFAR-100", "STL10") if n in row and n != owner]
        far = [row[n] for n in ("MNIST", "SVHN", "digits") if n in row]
        if not near:
            raise Missing("the run has no natural images other than CIFAR-10.")
        parts |= {
            f"{owner}: natural images at most 1.3": below(max(near), 1.3),
            f"{owner}: numbers at least 3.9": above(min(far), 3.9),
            f"{owner}: numbers at most 7.9": below(max(far), 7.9),
        }
    return parts


@criterion(
    "kw-c53", chapter=CORRESPONDENCE, unit="times the highest other set", needs=WHOLE_SETS, stand_in=OTHER_NETWORKS
)
def random_input_is_the_farthest(run):
    """Table 3: random input has the largest divergence in every row."""
    return {o: above(run.metric("pooled", o, "random") / max(data_sets(run, o).values()), 1) for o in owners(run)}


@criterion(
    "kw-c54", chapter=CORRESPONDENCE, unit="times the unattacked",
    stand_in={scale: f"{text}; that SVHN's does not rise is not tested" for scale, text in OTHER_NETWORKS.items()},
)  # fmt: skip
def attacks_raise_the_divergence(run):
    """Table 3, section 4.4: FGSM at epsilon 0.1 raises the divergence, in either unit of epsilon that the paper may mean."""
    units = ("normalised", "pixels")
    return {f"{o}, {u}": above(v["0.1"], 1) for u in units for o, v in run.metric("fgsm_ratio", u).items()}


@criterion("kw-c55", chapter=CORRESPONDENCE, unit="decades a unit of epsilon", stand_in=OTHER_NETWORKS)
def divergence_grows_with_epsilon(run):
    """Table 3, footnote: over epsilon from zero the ratio grows in general: a line through its logarithm rises."""
    parts = {}
    for unit, owners in run.metric("fgsm_ratio").items():
        for owner, ratios in owners.items():
            curve = {0.0: 1.0} | {float(e): v for e, v in ratios.items()}
            if len(curve) > 2:
                parts[f"{owner}, {unit}"] = above(slope(list(curve), [math.log10(v) for v in curve.values()]))
    return parts


@criterion(
    "kw-c57",
    chapter=CORRESPONDENCE,
    unit="times",
    identity=True,
    tolerance=0.05,
    why="half a unit of table 3's last digit",
)
def table_3_is_table_4_divided(run):
    """Tables 3 and 4: each of the 28 cells of table 3 is that of table 4 over its row's own set, to one decimal."""
    return {
        "largest difference": within(run.metric("tables_3_and_4", "largest difference"), 0, 0.05),
        "cells": within(run.metric("tables_3_and_4", "cells"), 28, COUNT),
    }


@criterion(
    "kw-c58", chapter=CORRESPONDENCE, unit="times", needs=WHOLE_SETS, stand_in=OTHER_NETWORKS, tolerance=2.0,
    why="below a factor of two raw values could still be compared from network to network",
)  # fmt: skip
def only_ratios_can_be_compared(run):
    """Section 4.4: the reference differs from network to network, and ratios to it differ less than raw values."""
    same_set = run.metric("scale").values()  # several networks of CIFAR-10
    own = [run.metric("pooled", o, o) for o in owners(run)] + [row["CIFAR-10"] for row in same_set]
    parts = {"references differ": above(max(own) / min(own), 2)}
    for name in ("digits", "random"):
        raw = [row[name] for row in same_set]
        ratio = [row[name] / row["CIFAR-10"] for row in same_set]
        parts[f"{name}: ratios nearer than raw values"] = above(max(raw) / min(raw), max(ratio) / min(ratio))
    return parts


@criterion(
    "kw-c62", chapter=CORRESPONDENCE, unit="nats", stand_in=IMAGENET, tolerance=2.0,
    why="strong is read as at least twice the mild bias of real images, and beyond chance; balanced as within chance",
)  # fmt: skip
def bns_images_are_unbalanced(run):
    """Section 5, appendix E: the mean prediction over BNS images is strongly unbalanced, over BNS + I images balanced."""
    parts = {}
    for kind in ("soft", "hard"):
        shares = {s: run.metric("mean_prediction", s, kind) for s in ("real", "BNS", "BNS + I")}
        uneven = {s: imbalance(v) for s, v in shares.items()}
        chance = fair_draws(len(shares["BNS"]), run.parameter("images"))
        parts[f"BNS strongly, {kind}"] = above(uneven["BNS"], max(2 * uneven["real"], chance))
        parts[f"BNS + I balanced, {kind}"] = below(uneven["BNS + I"], chance)
    return parts
