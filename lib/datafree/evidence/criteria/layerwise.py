"""Criteria for Layer-Wise Data-Free CNN Compression: chapters 05 (equalisation), 06 (quantisation) and 07 (pruning).

Its ImageNet numbers are not measured on ten classes of CIFAR: they have a criterion only where a run on ImageNet can
bring the claim's own network (lw-c21, c22, c35) or one that stands for it (lw-c33, c48), and stand in
not_testable.yaml else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from scipy import stats

from ..measured import Measured
from ..verdict import Effect
from . import Missing, Run, above, below, criterion, mean, within

EQUALIZATION, QUANTIZATION, PRUNING = "05_lw_equalization", "06_lw_quantization", "07_lw_pruning"

DOUBLE, SINGLE, EXACT = 1e-10, 1e-5, 1e-12
ROUNDING = "rounding of double precision through a few sums"
ROUNDINGS = "rounding of single precision through all layers of a network"

RIVALS = ("DFQ", "AdaRound", "ZeroQ", "AKD", "DI")
"""The other columns of table I."""

GENERATIVE = ("AKD", "DI")
EFFICIENT = ("global", "uniform", "ERK")
"""The curves of figure 5 beside the method's."""

HALF_ROW = 0.5
WHOLE_ROWS = "half a row: 12 of 15 rows are more than 11.5"

SMALL = "small MobileNetV2 on CIFAR-10"
QUARTER = "MobileNetV1 of a quarter of the width, with ReLU6, on 500 validation images of ten classes"


def _stand_in(others: str, book: str) -> dict[str, str]:
    """What stands for the paper's networks at each scale: the embedded ones in the demonstration."""
    return {"book": book, "reduced": others, "paper": others}


NETWORKS = _stand_in(
    f"{SMALL}, ResNet-20 on CIFAR-100 and {QUARTER} for MobileNetV2, ResNet18 and MobileNetV1 on ImageNet",
    "small networks on CIFAR-10 for MobileNetV1, MobileNetV2 and ResNet18 on ImageNet",
)
SHORT = "AKD and DI at few widths, rivals with fewer steps than their authors take"
SHORT_RIVALS = {scale: text if scale == "paper" else f"{text}; {SHORT}" for scale, text in NETWORKS.items()}
RESIDUAL = _stand_in(
    "ResNet-20 on CIFAR-100 for ResNet18 on ImageNet", "ResNet-20 on CIFAR-10 for ResNet18 on ImageNet"
)
PRUNED = _stand_in(
    f"{SMALL} and {QUARTER} for MobileNets on ImageNet",
    "small MobileNetV2 and ResNet-20 on CIFAR-10 for MobileNets on ImageNet",
)
LITE = "EfficientNet-Lite0 (where the images are not ImageNet's, by agreement with itself in float) for EfficientNet-B0"
PRUNED_LITE = {scale: f"{text}; {LITE}" for scale, text in PRUNED.items()}

ENDED = 100
"""Steps of training end to end: fewer have hardly begun, as the paper's schedule has 100,000."""

BUDGET = {"round_steps": 200, "synthetic_steps": 60, "training_steps": ENDED}
"""Shorter rivals say nothing beyond the demonstration; their authors take 10,000, 500 to 2,000 and 2,000 steps."""

TRAINED = {"steps": 300}
"""A few hundred iterations, which the paper says suffice (section IV)."""

GENERATED = {"generative_steps": ENDED}
MANY = {"many_steps": ENDED}

WIDTHS = range(4, 9)
"""Bits of the rows of table I; what is measured at fewer bits is no row of it."""


# What several criteria need -----------------------------------------------------------------------------------------


def variance_of(m: Measured) -> float:
    """Of a number, over the test images."""
    return m.variance + (m.images.var(ddof=1) / len(m.images) if m.images is not None else 0.0)


def pooled(values: Iterable[Measured]) -> Measured:
    """The mean of numbers of several networks, whose test images need not be the same."""
    found = list(values)
    if not found:
        raise Missing("the run has none of the cells that the claim speaks of.")
    variance = sum(map(variance_of, found)) / len(found) ** 2
    return Measured(sum(m.value for m in found) / len(found), None, variance)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's; Missing where there are too few values to rank."""
    if len(a) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        raise Missing("the run has fewer than three different values to rank.")
    return float(stats.spearmanr(a, b).statistic)


def positive(value: float | None, name: str) -> float:
    """A time or a size; Missing where the machine could not measure it."""
    if value is None or value <= 0:
        raise Missing(f"the run has no measurement of {name}.")
    return value


# Table I ------------------------------------------------------------------------------------------------------------


def cells(run: Run, network: str | None = None) -> list[tuple[int, str, int]]:
    """Row, role of its network and bits of the table, of one network or of all."""
    roles = {run.parameter("model"): "first network", run.parameter("second"): "residual network"}
    rows = enumerate(run.metric("table"))
    return [
        (i, roles.get(row["network"], "third network"), row["bits"])
        for i, row in rows
        if network in (None, row["network"]) and row["bits"] in WIDTHS
    ]


def mine(run: Run, i: int) -> Measured:
    """Accuracy of the method in a row, with one grid a tensor as its rivals have it.

    Where a network needs buffers, that is the form that rounds behind them; else there is one form only.
    """
    return run.accuracy("table", i, (ran(run, i, ["ours (one grid)"]) or ["ours"])[0])


def row_of(run: Run, network: str, bits: int) -> int:
    """Index of a network's row at a width; Missing where it was not run."""
    for i, _, width in cells(run, run.parameter(network)):
        if width == bits:
            return i
    raise Missing(f"the run has no row of the {network} network at {bits} bit.")


def ran(run: Run, i: int, methods: Iterable[str]) -> list[str]:
    """Those of the methods that were run in a row."""
    return [m for m in methods if run.metric("table", i).get(m) is not None]


def best(run: Run, i: int, methods: Iterable[str]) -> Measured:
    """Accuracy of the best of the methods in a row."""
    found = [run.accuracy("table", i, m) for m in ran(run, i, methods)]
    if not found:
        raise Missing(f"row {i} of the table has none of the rivals.")
    return max(found, key=float)


def lead(run: Run, i: int, rivals: Iterable[str]) -> Measured:
    """Points of the method over the best of its rivals in a row."""
    return mine(run, i) - best(run, i, rivals)


def share_won(run: Run, rivals: Sequence[str]) -> Measured:
    r"""Share of the rows in which the method is above all rivals that were run; a tie is half a row.

    With p the chance that the test images put a row on the method's side, the count has the variance
    :math:`\sum p (1 - p)`: a row won by one image is no sure row.
    """
    leads = [lead(run, i, rivals) for i, _, _ in cells(run) if ran(run, i, rivals)]
    if not leads:
        raise Missing(f"the table has no row with {' or '.join(rivals)}.")
    won = [_step(m.value) for m in leads]
    chance = [_chance(m) for m in leads]
    return Measured(sum(won) / len(won), None, sum(p * (1 - p) for p in chance) / len(won) ** 2)


def _step(x: float) -> float:
    """One above zero, a half at zero."""
    return 0.5 * ((x > 0) + (x >= 0))


def _chance(m: Measured) -> float:
    """That the true lead is above zero, by the normal law over the test images."""
    deviation = math.sqrt(variance_of(m))
    return float(stats.norm.cdf(m.value / deviation)) if deviation else _step(m.value)


def exceptions(run: Run, rivals: Sequence[str], widths: Iterable[int]) -> dict[str, Effect]:
    """The rows of ResNet18 that a claim takes out, where the best rival is above the method.

    They are cells of ImageNet, at 4 bit around one per cent, and rows of other networks do not stand for them.
    """
    if run.parameter("second") != "resnet18" or run.parameter("data") != "imagenet":
        return {}
    here = [(i, bits) for i, _, bits in cells(run, "resnet18") if bits in widths and ran(run, i, rivals)]
    return {f"ResNet18 behind at {bits} bit": below(lead(run, i, rivals), 0) for i, bits in here}


def rows_won(run: Run, rivals: Sequence[str], rows: int, behind: Iterable[int]) -> dict[str, Effect]:
    """A claim of so many of 15 rows, and its exceptions where they were measured."""
    return {"rows won": above(share_won(run, rivals), (rows - HALF_ROW) / 15)} | exceptions(run, rivals, behind)


def on_imagenet(run: Run) -> None:
    """Missing unless a run measured the claim's own network on ImageNet."""
    if run.parameter("model") != "mobilenet_v2" or run.parameter("data") != "imagenet":
        raise Missing("the claim's number is of MobileNetV2 on ImageNet, which this run did not measure.")


# Figures 5 to 7 -----------------------------------------------------------------------------------------------------


def at(run: Run, path: Sequence[str], label: str, sparsity: float) -> Measured:
    """Accuracy of a curve at a sparsity, on the line between its neighbours; it starts at the whole network."""
    x = [0.0, *run.metric(*path, "sparsity")]
    y = [run.accuracy("float", run.parameter("model"))]
    y += [run.accuracy(*path, label, k) for k in range(len(x) - 1)]
    k = next((k for k in range(1, len(x)) if sparsity <= x[k]), len(x) - 1)
    share = (sparsity - x[k - 1]) / (x[k] - x[k - 1])
    return y[k - 1] * (1 - share) + y[k] * share


def ablated(run: Run, variant: str) -> Measured:
    """Mean accuracy of a variant of figure 7 at the sparsities of the method."""
    return mean(
        at(run, ("ablation_curves", variant), "top-1", z) for z in run.metric("ablation_curves", "ours", "sparsity")
    )


def lite_lead(run: Run, rival: str) -> Measured:
    """Points of agreement over a rival on EfficientNet-Lite0, mean over its sparsities."""
    rows = range(len(run.metric("lite")))
    return mean(run.accuracy("lite", i, "ours") - run.accuracy("lite", i, rival) for i in rows)


def costly_lead(run: Run, label: str, k: int) -> Measured:
    """Points of a costly method over the best efficient one at the sparsity that its k-th run reached."""
    z = run.metric("costly", label, "sparsity (%)", k) / 100
    path = ("accuracy_against_sparsity", run.parameter("model"))
    rivals = (at(run, path, e, z) for e in ("ours", *EFFICIENT))
    return run.accuracy("costly", label, "top-1", k) - max(rivals, key=float)


def ended(run: Run, steps: str) -> None:
    """Missing where the generative methods were stopped after a few steps: such runs have no end to speak of."""
    if run.parameter(steps) < ENDED:
        raise Missing(f"the generative methods ran for fewer than {ENDED} steps.")


# Chapter 05 ---------------------------------------------------------------------------------------------------------


@criterion("lw-c01", chapter=EQUALIZATION, unit="relative change", tolerance=DOUBLE, why=ROUNDING, identity=True)
def block_keeps_its_output(run):
    """Eq. 1: row c of W, c of b and mu times a, gamma over a: linear layer and BatchNorm are unchanged."""
    return within(run.metric("block_rescaled", "relative change of the output"), 0, DOUBLE)


@criterion("lw-c02", chapter=EQUALIZATION, unit="relative change", tolerance=SINGLE, why=ROUNDINGS, identity=True)
def fusion_keeps_the_network(run):
    """Section III-A: fusing BatchNorm does not change the network in evaluation mode; the worst of all networks."""
    return within(max(run.metric("fusion").values()), 0, SINGLE)


@criterion("lw-c03", chapter=EQUALIZATION, unit="relative change", tolerance=DOUBLE, why=ROUNDING, identity=True)
def a_factor_passes_relu(run):
    """Eq. 2: with ReLU, a row over s and the matching column times s leave the pair unchanged."""
    return within(run.metric("moved_through_relu", "relative change of the output"), 0, DOUBLE)


@criterion("lw-c04", chapter=EQUALIZATION, unit="relative change", tolerance=SINGLE, why=ROUNDINGS, identity=True)
def buffers_keep_every_layer(run):
    """Eqs. 3 to 9: AFCLE with buffers leaves every layer's output unchanged, whatever the activation."""
    rows = run.metric("activations")
    return {row["activation"]: within(row["worst layer, AFCLE"], 0, SINGLE) for row in rows}


@criterion("lw-c05", chapter=EQUALIZATION, unit="relative change", tolerance=SINGLE, why=ROUNDINGS, identity=True)
def relu_needs_no_buffers(run):
    """Section III-A: on networks with only ReLU the buffers can be dropped; the worst of all networks."""
    return within(max(run.metric("relu_without_buffers").values()), 0, SINGLE)


@criterion("lw-c06", chapter=EQUALIZATION, unit="relative change", tolerance=SINGLE, why=ROUNDINGS, identity=True)
def only_buffers_keep_smooth_networks(run):
    """Section III-A: what is not piecewise linear changes the function without buffers (plain CLE), not with them."""
    found = {row["activation"]: row for row in run.metric("activations")}
    parts = {}
    for name in ("swish", "hard-swish", "sigmoid"):
        if name not in found:
            raise Missing(f"the run has no network with {name}.")
        parts[f"{name}, plain"] = above(found[name]["output, no buffers"], SINGLE)
        parts[f"{name}, AFCLE"] = within(found[name]["worst layer, AFCLE"], 0, SINGLE)
    return parts


@criterion("lw-c07", chapter=EQUALIZATION, unit="weight", tolerance=DOUBLE, why=ROUNDING, identity=True)
def one_update_levels_a_pair(run):
    """Eqs. 4, 5 and 8: after one update both matched channels have the geometric mean of the two ranges."""
    return within(run.metric("one_update", "largest difference from the geometric mean"), 0, DOUBLE)


@criterion("lw-c08", chapter=EQUALIZATION, unit="mean scale", tolerance=1e-3, why="the claim's own number")
def sweeps_converge(run):
    """Section III-A: the sweeps end with a mean scale within 1e-3 of one; the worst of all networks."""
    off = [v for name, v in run.metric("convergence").items() if not name.endswith("sweeps")]
    return within(max(off), 0, 1e-3)


@criterion("lw-c09", chapter=EQUALIZATION, unit="parameters, relative change", tolerance=SINGLE, why=ROUNDINGS,
           identity=True)  # fmt: skip
def buffers_fold_away(run):
    """Section III-A: buffers add no parameters in the end, because they fold into weight and bias."""
    found = run.metric("buffers_folded")
    return {
        "parameters": within(found["after"] - found["parameters before"], 0, 0),
        "output": within(found["relative change"], 0, SINGLE),
    }


@criterion("lw-c10", chapter=EQUALIZATION, unit="share of the tensor's range")
def channels_come_nearer_to_the_tensor(run):
    """Section III-A: a channel's range over the tensor's is larger after equalisation, in every network."""
    places = ("first network", "second network", "third network")
    ranges = run.metric("channel_range_over_tensor_range").values()
    return {place: above(after, before) for place, (before, after) in zip(places, ranges)}


@criterion("lw-c11", chapter=EQUALIZATION, unit="share of the deviation", tolerance=0.1,
           why="twice the chance of a mean over 500 images, 1 / sqrt(500)")  # fmt: skip
def batchnorm_has_its_moments(run):
    """Section III-B: a BatchNorm layer puts out mean beta and deviation gamma; root mean square over all channels."""
    found = run.metric("batchnorm_outputs").values()
    parts = ("mean off by", "deviation off by")
    return {part: below(max(row[part] for row in found), 0.1) for part in parts}


@criterion("lw-c12", chapter=EQUALIZATION, unit="nats, factors of two", tolerance=0.05,
           why="nats: a mean off by a third of a deviation; a range off by two costs one bit of the grid")  # fmt: skip
def inputs_can_be_imitated(run):
    """Eqs. 10 to 12: imitated inputs have the real ones' mean, deviation and range, and beat N(0, 1) in each layer."""
    parts = {}
    curves = run.metric("divergence_of_layer_inputs")
    for place, (name, c) in zip(("first network", "second network"), curves.items()):
        parts[f"{place}, moments"] = below(median(c["imitated"]), 0.05)
        nearer = (math.log2(b / max(a, EXACT)) for a, b in zip(c["imitated"], c["N(0, 1)"]))
        parts[f"{place}, nearer than N(0, 1)"] = above(min(nearer))
        ratios = run.metric("range_of_layer_inputs", name)
        parts[f"{place}, range"] = below(median([abs(math.log2(r)) for r in ratios]), 1)
    return parts


def median(values: Sequence[float]) -> float:
    """The lower one of an even number."""
    return sorted(values)[(len(values) - 1) // 2]


@criterion("lw-c13", chapter=EQUALIZATION, unit="mean, deviation", tolerance=0.01,
           why="some hundred thousand drawn values scatter by a fifth of it")  # fmt: skip
def first_layer_gets_standard_normal_values(run):
    """Section III-B: a layer with no BatchNorm before it receives standard normal inputs."""
    found = run.metric("first_layer_input")
    return {"mean": within(found["mean"], 0, 0.01), "deviation": within(found["deviation"], 1, 0.01)}


# Chapter 06: the quantiser and its range -----------------------------------------------------------------------------


@criterion("lw-c14", chapter=QUANTIZATION, unit="levels, steps", tolerance=1e-9, why=ROUNDING, identity=True)
def quantiser_properties(run):
    """Eqs. 13 and 14: at most 2^b levels, idempotent, an error of at most half a step inside the range."""
    rows = run.metric("quantiser")
    return {
        "levels": below(max(r["levels"] - 2 ** r["bits"] for r in rows), 0.5),
        "idempotent": within(max(r["change of a second rounding"] for r in rows), 0, 1e-9),
        "half a step": below(max(r["largest error in steps"] for r in rows), 0.5 + 1e-9),
    }


@criterion("lw-c15", chapter=QUANTIZATION, unit="error over the extremes' error", tolerance=1e-6,
           why="rounding of single precision in two ways to one sum", identity=True)  # fmt: skip
def search_never_loses_to_the_extremes(run):
    """Figure 4: the grid search has at most the squared error of the min-max range, which lies on the grid."""
    return below(max(run.metric("search_over_extremes").values()), 1 + 1e-6)


@criterion("lw-c16", chapter=QUANTIZATION, unit="range end", tolerance=EXACT, why="ends are exact zeros", identity=True)
def one_sided_data(run):
    """Figure 4: non-negative data keep the lower end at zero, and the upper end is never negative."""
    found = run.metric("ends_of_one_sided_data")
    return {
        "lower end": within(found["lower end, non-negative data"], 0, EXACT),
        "upper end": above(min(found["upper ends, all data"]), -EXACT),
    }


@criterion("lw-c17", chapter=QUANTIZATION, unit="evaluations, kept tensors", identity=True)
def search_costs_n_squared_evaluations(run):
    """Figure 4: N^2 quantisations a layer, counted, and nothing is kept for a backward pass."""
    found = run.metric("search_evaluations")
    return {
        "evaluations": within(found["evaluations"], found["grid"] ** 2, 0),
        "no back-propagation": within(found["tensors kept for a backward pass"], 0, 0),
    }


@criterion("lw-c18", chapter=QUANTIZATION, unit="weight, levels", tolerance=1e-6,
           why="rounding of single precision", identity=True)  # fmt: skip
def weights_have_one_range_a_tensor(run):
    """Section III-C: weights are quantised per tensor, from their minimum to their maximum; the worst of all layers."""
    found = run.metric("weight_ranges")
    return {
        "ends": within(found["ends off by"], 0, 1e-6),
        "one grid a tensor": below(found["levels in use"] - 2 ** found["bits"], 0.5),
    }


@criterion("lw-c19", chapter=QUANTIZATION, unit="points", stand_in=NETWORKS)
def second_pass_accounts_for_correction(run):
    """Section III-C: ranges set again after bias correction keep more accuracy than those set before it."""
    return above(run.accuracy("range_passes", "two passes"), run.accuracy("range_passes", "one pass"))


# Chapter 06: table I -------------------------------------------------------------------------------------------------


@criterion("lw-c20", chapter=QUANTIZATION, unit="share of rows, points", tolerance=HALF_ROW / 15, why=WHOLE_ROWS,
           stand_in=SHORT_RIVALS, needs=BUDGET)  # fmt: skip
def best_in_most_rows(run):
    """Table I: best in 12 of 15 cells; exceptions are ResNet18 at 5 and 4 bit and MobileNetV1 at 8 bit."""
    return rows_won(run, RIVALS, 12, (5, 4))


@criterion("lw-c21", chapter=QUANTIZATION, unit="points", tolerance=0.17,
           why="half of the claim's 0.34; the settings of the rivals are not given", needs=BUDGET)  # fmt: skip
def gain_at_eight_bit(run):
    """Abstract: on MobileNetV2 at 8 bit 0.34 points over the best alternative. Only a run on ImageNet counts."""
    on_imagenet(run)
    gain = lead(run, row_of(run, "model", 8), RIVALS)
    return {"direction": above(gain), "size": within(gain, 0.34, 0.17)}


@criterion("lw-c22", chapter=QUANTIZATION, unit="points", tolerance=14.25,
           why="half of the claim's 28.50; the settings of the rivals are not given", needs=BUDGET)  # fmt: skip
def gain_at_five_bit(run):
    """Abstract: on MobileNetV2 at 5 bit 28.50 points over the best alternative. Only a run on ImageNet counts."""
    on_imagenet(run)
    gain = lead(run, row_of(run, "model", 5), RIVALS)
    return {"direction": above(gain), "size": within(gain, 28.50, 14.25)}


@criterion("lw-c23", chapter=QUANTIZATION, unit="points a bit", stand_in=SHORT_RIVALS,
           needs={"round_steps": BUDGET["round_steps"]})  # fmt: skip
def margin_widens_with_fewer_bits(run):
    """Caption of table I: from 8 to 5 bit the margin over the better of DFQ and AdaRound widens; its slope."""
    widths = (8, 7, 6, 5)
    margins = [lead(run, row_of(run, "model", b), ("DFQ", "AdaRound")) for b in widths]
    middle = sum(widths) / len(widths)
    spread = sum((middle - b) ** 2 for b in widths)
    return above(sum(m * ((middle - b) / spread) for b, m in zip(widths, margins)))


@criterion("lw-c24", chapter=QUANTIZATION, unit="share of rows, points", tolerance=HALF_ROW / 15, why=WHOLE_ROWS,
           stand_in=NETWORKS)  # fmt: skip
def beats_dfq(run):
    """Table I: above DFQ in 13 of 15 rows, not in ResNet18's at 4 bit (nor MobileNetV1's at 8 bit)."""
    return rows_won(run, ("DFQ",), 13, (4,))


@criterion("lw-c25", chapter=QUANTIZATION, unit="share of rows, points", tolerance=HALF_ROW / 15, why=WHOLE_ROWS,
           stand_in=SHORT_RIVALS, needs={"round_steps": BUDGET["round_steps"]})  # fmt: skip
def beats_adaround(run):
    """Table I: above AdaRound in 12 of 15 rows, not in ResNet18's at 5 and 4 bit (nor MobileNetV1's at 8 bit)."""
    return rows_won(run, ("AdaRound",), 12, (5, 4))


@criterion("lw-c26", chapter=QUANTIZATION, unit="points", stand_in=SHORT_RIVALS,
           needs={"synthetic_steps": BUDGET["synthetic_steps"]})  # fmt: skip
def beats_zeroq_in_every_row(run):
    """Table I: above ZeroQ in all 15 rows; one part a row."""
    here = [(i, role, bits) for i, role, bits in cells(run) if ran(run, i, ["ZeroQ"])]
    return {f"{role}, {bits} bit": above(lead(run, i, ["ZeroQ"])) for i, role, bits in here}


@criterion("lw-c27", chapter=QUANTIZATION, unit="share of rows, points", tolerance=HALF_ROW / 15, why=WHOLE_ROWS,
           stand_in=SHORT_RIVALS, needs=BUDGET)  # fmt: skip
def beats_the_generative_methods(run):
    """Table I: above AKD in 14 of 15 rows (not ResNet18's at 5 bit), above DI in 14 of 15 (not ResNet18's at 4 bit)."""
    found = {"AKD": rows_won(run, ("AKD",), 14, (5,)), "DI": rows_won(run, ("DI",), 14, (4,))}
    return {f"{rival}, {part}": effect for rival, parts in found.items() for part, effect in parts.items()}


@criterion("lw-c30", chapter=QUANTIZATION, unit="points", stand_in=NETWORKS)
def accuracy_falls_with_the_bits(run):
    """Table I: on all three networks each narrower width has less accuracy; one part a pair of widths."""
    parts = {}
    for (i, role, wide), (j, same, narrow) in itertools.pairwise(cells(run)):
        if role == same and wide > narrow:
            parts[f"{role}, {wide} to {narrow} bit"] = above(mine(run, i), mine(run, j))
    return parts


@criterion("lw-c32", chapter=QUANTIZATION, unit="points", stand_in=RESIDUAL,
           needs=BUDGET)  # fmt: skip
def adaround_on_the_residual_network(run):
    """Table I, ResNet18: AdaRound starts low at 8 bit, loses less down to 5 bit than all but DI, is best at 5 and 4."""
    eight, five, four = (row_of(run, "second", b) for b in (8, 5, 4))
    others = ("ours", *(r for r in RIVALS if r != "AdaRound"))
    at_eight = run.accuracy("table", eight, "AdaRound")
    lost = at_eight - run.accuracy("table", five, "AdaRound")
    parts = {f"below {m} at 8 bit": below(at_eight, run.accuracy("table", eight, m)) for m in ("ours", "DFQ")}
    for m in ("ours", "DFQ", "ZeroQ", "AKD"):
        if m in ran(run, eight, others) and m in ran(run, five, others):
            loss = run.accuracy("table", eight, m) - run.accuracy("table", five, m)
            parts[f"loses less than {m}"] = below(lost, loss)
    for bits, i in ((5, five), (4, four)):
        parts[f"best at {bits} bit"] = above(run.accuracy("table", i, "AdaRound"), best(run, i, others))
    return parts


@criterion("lw-c33", chapter=QUANTIZATION, unit="points", tolerance=2.0, why="the claim's own number",
           stand_in=f"{QUARTER} for MobileNetV1 and MobileNetV2 on ImageNet",
           needs={"synthetic_steps": BUDGET["synthetic_steps"]})  # fmt: skip
def zeroq_collapses_at_five_bit(run):
    """Table I: at 5 bit ZeroQ drops below 2 % on both MobileNets. Only real ImageNet images count."""
    if run.parameter("third_data") != "imagenet-val":
        raise Missing("the claim's number is of a network on ImageNet, which this run did not measure.")
    return below(run.accuracy("table", row_of(run, "third", 5), "ZeroQ"), 2.0)


@criterion("lw-c34", chapter=QUANTIZATION, unit="points", stand_in=SHORT_RIVALS, needs=BUDGET)
def generative_methods_fail_at_low_bits(run):
    """Caption of table I: at 6 bit and below AKD and DI are less accurate than the method; mean over the rows."""
    ended(run, "training_steps")
    low = [i for i, _, bits in cells(run) if bits <= 6]
    return {m: above(pooled(lead(run, i, [m]) for i in low if ran(run, i, [m]))) for m in GENERATIVE}


@criterion("lw-c35", chapter=QUANTIZATION, unit="points", tolerance=0.34,
           why="the smallest gain that the abstract claims; what matters less is no change")  # fmt: skip
def relu_in_place_of_relu6(run):
    """Section IV: MobileNetV2 with ReLU for ReLU6 has the same accuracy. Only a run on ImageNet counts."""
    on_imagenet(run)
    return within(run.accuracy("relu6_to_relu", "ReLU"), run.accuracy("relu6_to_relu", "ReLU6"), 0.34)


@criterion("lw-c36", chapter=QUANTIZATION, unit="factors of ten",
           stand_in="a processor for a V100, small MobileNetV2 for MobileNetV1; times at authors' steps")  # fmt: skip
def less_time_and_memory(run):
    """Figure 3, section III: less time and memory than ZeroQ, AKD and DI, as no gradient flows through the network."""
    spent = {row["method"]: row for row in run.metric("cost")}
    parts = {}
    for rival, (what, key) in itertools.product(
        ("ZeroQ", *GENERATIVE), (("time", "seconds with the authors' steps"), ("memory", "peak memory (MB)"))
    ):
        theirs, ours = (positive(spent.get(m, {}).get(key), f"{what} of {m}") for m in (rival, "ours"))
        parts[f"{what}, {rival}"] = above(math.log10(theirs / ours))
    backward = positive(run.metric("backward_over_ours_memory"), "memory of one backward pass")
    return parts | {"memory, one backward pass": above(math.log10(backward))}


# Chapter 07: the threshold and the layer loss ------------------------------------------------------------------------


@criterion("lw-c39", chapter=PRUNING, unit="weight, weights", tolerance=1e-6,
           why="rounding of single precision", identity=True)  # fmt: skip
def soft_threshold(run):
    """Eq. 15: zero exactly where the magnitude is at most sigmoid(s), the rest smaller by that amount."""
    found = run.metric("soft_threshold")
    return {
        "zeros": within(found["weights wrongly zero or not"], 0, 0),
        "the rest": within(found["largest difference from the loop"], 0, 1e-6),
    }


@criterion("lw-c40", chapter=PRUNING, unit="share of zeros", tolerance=EXACT, why="counts are exact", identity=True)
def sparsity_rises_with_s(run):
    """Section III-D: the share of zeros never falls as s rises, and it rises in all."""
    zeros = run.metric("zeros_by_s")
    return {
        "never falls": above(min(b - a for a, b in itertools.pairwise(zeros)), -EXACT),
        "rises": above(zeros[-1], zeros[0]),
    }


@criterion("lw-c41", chapter=PRUNING, unit="s, points of sparsity", needs=TRAINED)
def decay_raises_the_threshold(run):
    """Section III-D: weight decay pulls s up from a negative start, so that sparsity rises; from two starts."""
    moved, parts = run.metric("decay_of_s"), {}
    for start in ("few pruned", "many pruned"):
        free, pulled = moved[f"{start}, 0 lambda"], moved[f"{start}, 1 lambda"]
        parts[f"{start}, s"] = above(pulled["mean s"], free["mean s"])
        parts[f"{start}, sparsity"] = above(pulled["points of sparsity"])
    return parts


@criterion("lw-c42", chapter=PRUNING, unit="bias", identity=True)
def biases_stay(run):
    """Section III-D: the student's biases are fixed; largest change over all layers."""
    return within(run.metric("biases_moved", "largest change"), 0, 0)


@criterion("lw-c43", chapter=PRUNING, unit="parameter", identity=True)
def teacher_stays(run):
    """Section III-D: the teacher is not altered; largest change over all its tensors."""
    return within(run.metric("teacher_moved", "largest change"), 0, 0)


@criterion("lw-c44", chapter=PRUNING, unit="weight", tolerance=1e-6, why="rounding of single precision", identity=True)
def layers_are_alone(run):
    """Eq. 16: the result of a layer depends neither on the order of the layers nor on other student layers."""
    found = run.metric("order_of_layers")
    return {
        "order": within(found["largest difference, layers in reverse"], 0, 1e-6),
        "other layers": within(found["one layer alone"], 0, 1e-6),
    }


# Chapter 07: curves and ablations ------------------------------------------------------------------------------------


@criterion("lw-c38", chapter=PRUNING, unit="doublings of the time", tolerance=1.0, stand_in=PRUNED, needs=GENERATED,
           why="the least that 'much earlier' can mean: half the time")  # fmt: skip
def accuracy_comes_much_earlier(run):
    """Figure 3c: from one start the method reaches its accuracy in less than half the seconds of AKD and of DI.

    A rival that never gets there counts with the seconds it was given.
    """
    lines = run.metric("accuracy_against_time_same_start")
    goal = 0.95 * lines["ours"][-1][1]  # a line that wavers reaches its accuracy before its last point
    mine = arrival(lines["ours"], goal)
    parts = {}
    for rival in GENERATIVE:
        theirs, given = arrival(lines[rival], goal), lines[rival][-1][0]
        if theirs is None and given < 2 * mine:
            raise Missing(f"{rival} was stopped too early to say when it would get there.")
        parts[rival] = above(math.log2((given if theirs is None else theirs) / mine), 1.0)
    return parts


def arrival(line: Sequence[Sequence[float]], goal: float) -> float | None:
    """Seconds after which an accuracy is first reached; None where it is not."""
    return next((max(t, EXACT) for t, accuracy in line if accuracy >= goal), None)


@criterion("lw-c45", chapter=PRUNING, unit="points, share of the fall", tolerance=1.0, stand_in=PRUNED,
           why="a point of accuracy; of the loss a twentieth of its fall", needs={"long_steps": 1200})  # fmt: skip
def a_few_hundred_steps_suffice(run):
    """Section IV: training converges in a few hundred iterations: four times as many change little."""
    lengths = sorted(map(int, run.metric("training_lengths", "steps")))
    few, last = next((n for n in lengths if 200 <= n <= 500), None), lengths[-1]
    if few is None or last < 4 * few:
        raise Missing("the run has no training of a few hundred steps and one of four times as many.")
    here = [run.metric("training_lengths", "steps", str(n), "loss") for n in (few, last)]
    first = run.metric("training_lengths", "loss at the start")
    a, b = (run.accuracy("training_lengths", "steps", str(n), "top-1") for n in (few, last))
    return {"accuracy": within(b, a, 1.0), "loss": below((here[0] - here[1]) / (first - here[1]), 0.05)}


@criterion("lw-c46", chapter=PRUNING, unit="points", tolerance=1.0, stand_in=PRUNED, needs=TRAINED,
           why="a point: figures 5 to 7 are drawn over tens of points")  # fmt: skip
def activation_makes_no_difference(run):
    """Section III-D: leaving out the activation in eq. 12 makes no important difference, at every sparsity tried."""
    parts = {}
    for place, name in (("first network", run.parameter("model")), ("second network", run.parameter("second"))):
        for k in range(len(run.metric("activation", name, "applied"))):
            applied, left_out = (run.accuracy("activation", name, label, k) for label in ("applied", "left out"))
            parts[f"{place}, sparsity {k + 1}"] = within(applied, left_out, 1.0)
    return parts


@criterion("lw-c47", chapter=PRUNING, unit="points", stand_in=PRUNED_LITE, needs=TRAINED)
def curve_lies_above_magnitude_pruning(run):
    """Figure 5: on three networks above global, uniform and ERK pruning, at equal sparsity; mean over the curve."""
    parts = {}
    for place, name in (("first network", run.parameter("model")), ("second network", run.parameter("second"))):
        path = ("accuracy_against_sparsity", name)
        ours = run.accuracy(*path, "ours")
        parts |= {f"{place}, {rival}": above(ours, run.accuracy(*path, rival)) for rival in EFFICIENT}
    return parts | {f"EfficientNet-Lite0, {rival}": above(lite_lead(run, rival)) for rival in EFFICIENT}


@criterion("lw-c48", chapter=PRUNING, unit="times the sparsity", tolerance=0.25, needs=TRAINED,
           why="half of what the claim adds to the sparsity of global pruning",
           stand_in=f"{QUARTER} for MobileNetV1 on ImageNet, at 0.7 of its accuracy in float")  # fmt: skip
def sparsity_at_half_of_the_answers(run):
    """Abstract, figure 5: at 50 % top-1 MobileNetV1 is 1.5 times as sparse as by global pruning (60 against 40 %).

    Half of all answers are 0.7 of what that network reaches. Only real ImageNet images count.
    """
    if run.parameter("second_data") != "imagenet-val":
        raise Missing("the claim's number is of MobileNetV1 on ImageNet, which this run did not measure.")
    ours, rival = (sparsity_at(run, label, 0.7) for label in ("ours", "global"))
    return {"direction": above(ours / rival, 1.0), "size": within(ours / rival, 1.5, 0.25)}


def sparsity_at(run: Run, label: str, share: float) -> float:
    """Where a curve of the second network falls to a share of its float accuracy, on the line between neighbours."""
    name = run.parameter("second")
    whole = run.metric("float", name)
    curve = run.metric("accuracy_against_sparsity", name)
    x, y = [0.0, *curve["sparsity"]], [whole, *curve[label]]
    k = next((k for k, v in enumerate(y) if v < share * whole), None)
    if k is None:
        raise Missing(f"the curve of '{label}' does not fall to {share} of the float accuracy.")
    return x[k - 1] + (x[k] - x[k - 1]) * (y[k - 1] - share * whole) / (y[k - 1] - y[k])


@criterion("lw-c49", chapter=PRUNING, unit="points", stand_in=PRUNED, needs=TRAINED)
def standard_normal_inputs_cost_accuracy(run):
    """Figure 7: ours above ours-S, whose inputs are N(0, 1), at equal sparsity; mean over the curve."""
    return above(ablated(run, "ours"), ablated(run, "ours-S"))


@criterion("lw-c50", chapter=PRUNING, unit="points", stand_in=PRUNED, needs=TRAINED)
def skipping_equalisation_costs_more(run):
    """Figure 7: ours-S above ours-SE, which also skips AFCLE, at equal sparsity; mean over the curve."""
    return above(ablated(run, "ours-S"), ablated(run, "ours-SE"))


@criterion("lw-c51", chapter=PRUNING, unit="points", stand_in=PRUNED, needs=TRAINED)
def trained_weights_beat_the_budget(run):
    """Figure 7: ours above Budget, the learned mask or shares with the original weights; mean over the curve."""
    ours = run.accuracy("ablation", "ours")
    return {part: above(ours, run.accuracy("ablation", f"budget, {part}")) for part in ("mask", "shares")}


@criterion("lw-c52", chapter=PRUNING, unit="points of agreement", tolerance=1.0, needs={"lite_steps": 200},
           stand_in=f"{LITE} on ImageNet",
           why="of the equalised network: rounding may turn a tie of two classes, in one image of 100")  # fmt: skip
def carries_over_to_other_activations(run):
    """Section IV-B: on a network without ReLU buffered AFCLE keeps the function and the method leads as in figure 5."""
    kept = run.metric("lite_equalized", "agreement after equalisation")
    return {"function kept": within(kept, 100, 1.0)} | {r: above(lite_lead(run, r)) for r in EFFICIENT}


@criterion("lw-c54", chapter=PRUNING, unit="points", tolerance=1.0, needs=GENERATED,
           why="'clearly' on MobileNetV2: more than a point; the paper has a figure and no number",
           stand_in="small MobileNetV2 on CIFAR-10 for MobileNetV2, and with DI for EfficientNet-B0")  # fmt: skip
def layer_loss_improves_the_costly_methods(run):
    """Figure 6: the layer-wise loss adds to AKD on MobileNetV2, clearly, and to DI (there on EfficientNet-B0).

    Mean over the runs of the curve.
    """
    gain = {m: run.accuracy("costly", f"{m}, ours+", "top-1") - run.accuracy("costly", m, "top-1") for m in GENERATIVE}
    return {"with AKD, clearly": above(gain["AKD"], 1.0), "with DI": above(gain["DI"])}


@criterion("lw-c55", chapter=PRUNING, unit="points", stand_in=PRUNED, needs=GENERATED)
def costly_methods_are_better_where_they_converge(run):
    """Section IV-B: costly methods that end above their start beat the best efficient one; their mean."""
    ended(run, "generative_steps")
    labels = [f"{m}{plus}" for m in GENERATIVE for plus in ("", ", ours+")]
    runs = [(label, k) for label in labels for k in range(len(run.metric("costly_start", "top-1")))]
    converged = [
        (label, k)
        for label, k in runs
        if run.accuracy("costly_start", "top-1", k) < run.accuracy("costly", label, "top-1", k)
    ]
    if not converged:
        raise Missing("no costly method ended above its start, and the claim is about those that converge.")
    return above(mean(costly_lead(run, label, k) for label, k in converged))


@criterion("lw-c56", chapter=PRUNING, unit="points of sparsity", tolerance=1.0, needs=TRAINED,
           why="a share that is set directly is met to a weight; a point is what figure 5 can show")  # fmt: skip
def no_direct_control_of_sparsity(run):
    """Section IV-B: the share asked for is missed, and the start moves the final sparsity more than lambda does."""
    missed = []
    for name, shares in (("model", "shares"), ("second", "second_shares")):
        asked = map(float, run.parameter(shares).split())
        got = run.metric("accuracy_against_sparsity", run.parameter(name), "sparsity")
        missed += [100 * abs(a - b) for a, b in zip(asked, got)]
    paths = run.metric("decay_of_s")
    final = {key: run.metric("decay_of_s", key, "sparsity (%)") for key in paths}
    by_start = abs(final["few pruned, 1 lambda"] - final["many pruned, 1 lambda"])
    starts = ([v for k, v in final.items() if k.startswith(s)] for s in ("few pruned", "many pruned"))
    by_decay = max(max(v) - min(v) for v in starts)
    return {"share missed": above(max(missed), 1.0), "lambda does not set it": above(by_start, by_decay)}


@criterion("lw-c57", chapter=PRUNING, unit="points of sparsity", tolerance=1.0, stand_in=PRUNED,
           needs={"generative_steps": 1000}, why="a point is what figures 5 and 6 can show")  # fmt: skip
def adversarial_distillation_needs_more_decay(run):
    """Section IV-B: with AKD lambda itself does not vary sparsity, and 100 times as much does; from one start."""
    shares = [float(v) for v in run.parameter("costly_shares").split()]
    middles = [float(v) for v in run.parameter("shares").split()]
    middle = middles[len(middles) // 2]
    if run.parameter("generative_steps") < 1000 or middle not in shares:
        raise Missing("AKD ran for fewer than 1000 steps, or not at the share at which lambda is varied.")
    plain = run.metric("costly", "AKD", "sparsity (%)", shares.index(middle))
    strong = run.metric("costly", "AKD, 100 lambda", "sparsity (%)", 0)
    return {"lambda": within(plain, 100 * middle, 1.0), "100 lambda": above(strong - plain, 1.0)}


@criterion("lw-c58", chapter=PRUNING, unit="share of runs, rank correlation", tolerance=0.25, stand_in=PRUNED,
           why="'many' is at least one run in four; a loss that ranks below 0.5 explains under a quarter of the ranks",
           needs=MANY)  # fmt: skip
def many_generative_runs_fail_unnoticed(run):
    """Section IV-B: many AKD and DI runs end below half of the float accuracy, and their loss does not tell."""
    ended(run, "many_steps")
    runs = run.metric("generative_runs")
    line = run.metric("float", run.parameter("model")) / 2
    told = []
    for method in GENERATIVE:
        mine = [r for r in runs if r["method"] == method]
        told.append(rank_correlation([r["loss"] for r in mine], [-r["top-1"] for r in mine]))
    low = sum(r["top-1"] < line for r in runs) / len(runs)
    return {"many end low": above(low, 0.25), "not seen in the loss": below(sum(told) / len(told), 0.5)}


@criterion("lw-c59", chapter=PRUNING, unit="rank correlation", needs=TRAINED)
def near_layers_make_a_near_network(run):
    """Section III: over pruned networks, the error of the layers goes with the output's error and against accuracy."""
    errors, outputs, accuracy = zip(*run.metric("layer_error_and_accuracy"))
    return {
        "output error": above(rank_correlation(errors, outputs)),
        "accuracy": below(rank_correlation(errors, accuracy), 0),
    }


@criterion("lw-c60", chapter=PRUNING, unit="points", needs=TRAINED)
def one_recipe_for_both(run):
    """Abstract: the same recipe quantises and prunes one network better than plain rounding and global magnitude."""
    pairs = {
        "quantisation": ("4 bit", "4 bit, without the method"),
        "pruning": ("pruned", "pruned by global magnitude"),
    }
    return {
        part: above(run.accuracy("one_recipe", with_it), run.accuracy("one_recipe", plain))
        for part, (with_it, plain) in pairs.items()
    }
