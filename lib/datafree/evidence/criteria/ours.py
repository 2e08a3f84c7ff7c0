"""What is ours and no paper's claim, each with its statement."""

from __future__ import annotations

from itertools import pairwise

from ..measured import Measured
from ..verdict import Effect
from . import Missing, Run, above, below, criterion, within
from .frandi import NEAR, WHY_NEAR

PRUNING, REPAIR, RECOVERY, ROUNDING = "07_lw_pruning", "08_udfc", "09_frandi_recovery", "11_frandi_prune_quantize"


@criterion(
    "own-expected-layer-loss", chapter=PRUNING, unit="points", tolerance=NEAR, why=f"'as well as': {WHY_NEAR}",
    statement="Training on the closed form of the layer loss over imitated inputs prunes as well as training on drawn ones.",
)  # fmt: skip
def expected_loss_prunes_as_well(run):
    """The network trained on the mean of the loss against the average of those trained on draws."""
    path = "expected_against_drawn"
    return above(run.accuracy(path, "expected") - run.accuracy(path, "drawn"), -NEAR)


@criterion(
    "own-fusion-costs-global-pruning", chapter=PRUNING, unit="points",
    statement="Global magnitude pruning keeps more accuracy before BatchNorm is fused than after.",
)  # fmt: skip
def fusion_costs_global_pruning(run):
    """Mean over the sparsities, in three networks."""
    names = {
        "first network": run.parameter("model"),
        "second network": run.parameter("second"),
        "plain chain": "slim_vgg",
    }
    forms = {place: ("global_pruning_by_form", name) for place, name in names.items()}
    return {
        place: above(run.accuracy(*path, "before fusion") - run.accuracy(*path, "fused"))
        for place, path in forms.items()
    }


@criterion(
    "own-three-bits", chapter="06_lw_quantization", unit="points", tolerance=10.0,
    why="a tenth of all images: no matter of chance or of settings",
    statement="At three bits, where a small MobileNetV2 fails, the layer-wise method keeps at least ten points more than DFQ.",
)  # fmt: skip
def three_bits(run):
    """Of the run's first network; a run without a row of three bits does not count."""
    rows = [(row["network"], row["bits"]) for row in run.metric("table")]
    wanted = (run.parameter("model"), 3)
    if wanted not in rows:
        raise Missing("the run has no row of three bits.")
    i = rows.index(wanted)
    return above(run.accuracy("table", i, "ours") - run.accuracy("table", i, "DFQ"), 10.0)


def _up_to_half(run: Run) -> dict[str, int]:
    """Shares of channels of one half and less, and where they stand."""
    found = {f"{r:.0%} pruned": k for k, r in enumerate(run.metric("top1_by_share", "shares")) if r <= 0.5}
    if not found:
        raise Missing("the run pruned no half of the channels, or less.")
    return found


def _by_norm(run: Run, method: str, k: int) -> Measured:
    """Accuracy where the channels of smallest norm are pruned."""
    return run.accuracy("top1_by_share", "by l2 norm", method, k)


@criterion(
    "own-gaussian", chapter=REPAIR, unit="points",
    statement="Repair by the moments of rectified Gaussians, without any image, beats the closed form and Neuron "
    "Merging where up to half of the channels are pruned.",
)  # fmt: skip
def gaussians_beat_closed_form_and_merging(run):
    """The same channels, those of smallest norm, are pruned for all three."""
    return {
        f"over {rival}, {share}": above(_by_norm(run, "rectified Gaussians", k) - _by_norm(run, rival, k))
        for share, k in _up_to_half(run).items()
        for rival in ("closed form", "Neuron Merging")
    }


@criterion(
    "own-images", chapter=REPAIR, unit="points", tolerance=3.0, why="the statement's own number",
    statement="Repair by moments measured on synthetic images is three points above Neuron Merging and within three "
    "points of real images where up to half of the channels are pruned.",
)  # fmt: skip
def synthetic_images_come_near_real_ones(run):
    """The same channels, those of smallest norm, are pruned for all; images of the scheme BNS."""
    found = {}
    for share, k in _up_to_half(run).items():
        ours, rival, real = (_by_norm(run, m, k) for m in ("BNS images", "Neuron Merging", "real images"))
        found |= {
            f"over Neuron Merging, {share}": above(ours - rival, 3.0),
            f"below real, {share}": below(real - ours, 3.0),
        }
    return found


@criterion(
    "own-residual", chapter=REPAIR, unit="points",
    statement="Giving up channels by residual beats the smallest norms, with repair on synthetic images.",
)  # fmt: skip
def residual_beats_norm(run):
    """At every share of channels, repaired by moments of BNS images."""
    shares = run.metric("top1_by_share", "shares")
    by_residual = [run.accuracy("top1_by_share", "by residual", "BNS images", k) for k in range(len(shares))]
    return {f"{r:.0%} pruned": above(x - _by_norm(run, "BNS images", k))
            for k, (r, x) in enumerate(zip(shares, by_residual))}  # fmt: skip


@criterion(
    "own-statistics", chapter=REPAIR, unit="points",
    statement="Telling BatchNorm what became of its inputs adds to the repair.",
)  # fmt: skip
def statistics_add_to_the_repair(run):
    """Half of the channels pruned: the variance that is left (no image), statistics aligned (synthetic images)."""
    steps = {
        "variance": ("rectified Gaussians, intercept only", "and variance"),
        "alignment": ("BNS images, intercept only", "and statistics aligned"),
    }
    return {
        name: above(run.accuracy("parts_at_50", b) - run.accuracy("parts_at_50", a)) for name, (a, b) in steps.items()
    }


@criterion(
    "own-rounding", chapter=REPAIR, unit="points",
    statement="Repair on synthetic images also helps networks whose weights are rounded.",
)  # fmt: skip
def repair_helps_rounded_networks(run):
    """Over no repair at every width, for ranges per channel and per tensor; activations stay in float."""
    found = {}
    for how in ("per channel", "per tensor"):
        for k, bits in enumerate(run.metric("top1_by_bits", "bits")):
            with_repair, without = (run.accuracy("top1_by_bits", how, m, k) for m in ("BNS images", "no repair"))
            found[f"{bits} bit, {how}"] = above(with_repair - without)
    return found


@criterion(
    "own-aligned", chapter=RECOVERY, unit="points",
    statement="Moving BatchNorm's statistics by what has changed on synthetic images beats calibrating them on these "
    "images, whatever share of the operations was taken away.",
)  # fmt: skip
def aligned_statistics_beat_calibrated_ones(run):
    """Networks of low rank at each reduction, and the whole network, which calibration should not harm."""
    found = {}
    for label in run.metric("statistics"):
        aligned, calibrated = (run.accuracy("statistics", label, name) for name in ("aligned (ours)", "calibrated"))
        found[label] = above(aligned - calibrated)
    return found


@criterion(
    "own-prune-fair", chapter=ROUNDING, unit="points", tolerance=NEAR, why=f"'no worse': {WHY_NEAR}",
    needs={"steps": 100},
    statement="With equal steps too, Feature Regression without data is no worse than fine-tuning a pruned network on "
    "the real images at hand.",
)  # fmt: skip
def regression_is_no_worse_with_equal_steps(run):
    """At every share of weights kept, each mode of BatchNorm against fine-tuning in the same mode."""
    found = {}
    for k, row in enumerate(run.metric("table4")):
        for mode in ("frozen", "adapting"):
            lead = run.accuracy("table4", k, f"FR, {mode}") - run.accuracy("table4", k, f"fine-tuned, {mode}")
            found[f"{row['kept']:g} kept, BatchNorm {mode}"] = above(lead, -NEAR)
    return found


def _on_cifar100(run: Run) -> bool:
    return run.parameter("data").startswith("cifar100")


def _all_settings(run: Run) -> None:
    if _on_cifar100(run):
        raise Missing("the run is of CIFAR-100, which has a claim of its own.")
    if len(run.metric("ways")) < 4:
        raise Missing("the run has not all four settings: two widths, fewer channels, low rank.")


def _lead(run: Run, way: str) -> dict[str, Effect]:
    """A way's lead over each of the others that a setting was given to, in every setting of the run."""
    return {
        f"{setting}, over {rival}": above(run.accuracy("ways", setting, way) - run.accuracy("ways", setting, rival))
        for setting, ways in run.metric("ways").items()
        for rival in ways
        if "(ours)" not in rival
    }


@criterion(
    "own-one-pass", chapter="14_beyond", unit="points",
    statement="One pass of synthetic images, each layer damaged where its inputs mind least and nothing trained, keeps more "
    "than any single paper's way on the same images: at 2w4a, at 4w4a, with half of the channels, at three times fewer FLOPs.",
)  # fmt: skip
def one_pass_beats_every_paper(run):
    """Every setting of the run against every paper that it was given to; a run has to have all four."""
    _all_settings(run)
    return _lead(run, "one pass (ours)")


@criterion(
    "own-one-pass-cifar100", chapter="14_beyond", unit="points",
    statement="The same holds for a ResNet-56 on CIFAR-100.",
)  # fmt: skip
def one_pass_beats_every_paper_on_cifar100(run):
    """Runs with other data do not count."""
    if not _on_cifar100(run):
        raise Missing("the run is of other images than CIFAR-100's.")
    return _lead(run, "one pass (ours)")


@criterion(
    "own-one-pass-mobilenet", chapter="14_beyond", unit="points",
    statement="The same holds for a MobileNetV2 at 2w4a, at 4w4a and with half of the channels; there is nothing to split.",
)  # fmt: skip
def one_pass_beats_every_paper_on_mobilenet(run):
    """Runs with another network do not count."""
    if not run.parameter("model").startswith("mobilenet_v2"):
        raise Missing("the run is of another network than a MobileNetV2.")
    return _lead(run, "one pass (ours)")


@criterion(
    "own-one-pass-taught", chapter="14_beyond", unit="points",
    statement="The same holds when features are regressed after the pass.",
)  # fmt: skip
def one_pass_and_regression_beat_every_paper(run):
    """As above, with as many steps as the papers' trainings have."""
    _all_settings(run)
    return _lead(run, "and regressed (ours)")


@criterion(
    "own-parts", chapter="14_beyond", unit="points",
    statement="Each part of the pass adds accuracy: aligned statistics, damage that the output minds least, and the refit.",
)  # fmt: skip
def each_part_of_the_pass_adds(run):
    """Each row of the table against the one above it, in every setting that has both; a run has to have all four."""
    _all_settings(run)
    found = {}
    for setting, parts in run.metric("parts").items():
        for before, after in pairwise(parts):
            found[f"{setting}, {after}"] = above(
                run.accuracy("parts", setting, after) - run.accuracy("parts", setting, before)
            )
    return found


GOALS = {"0.3": (2.0, 1.0), "0.5": (8.0, 3.0), "0.7": (25.0, 8.0)}
"""Share of the channels pruned -> points below float before any training, and after it."""


@criterion(
    "own-goals", chapter="14_beyond", unit="points",
    statement="A ResNet-56 of CIFAR-10 with 30, 50 or 70 % of its channels pruned is within 2, 8 or 25 points of float without "
    "an image or a step, and within 1, 3 or 8 after one pass of synthetic images and Feature Regression on them.",
)  # fmt: skip
def pruning_stays_near_float(run):
    """Runs with another network, or on CIFAR-100, do not count."""
    if run.parameter("model") != "resnet56" or _on_cifar100(run):
        raise Missing("the run is of another network than a ResNet-56 of CIFAR-10.")
    found = {}
    for share, limits in GOALS.items():
        for way, limit in zip(("no image", "and regressed"), limits):
            lost = run.accuracy("float_top1") - run.accuracy("by_share", share, way)
            found[f"{float(share):.0%} pruned, {way}"] = below(lost, limit)
    return found


@criterion(
    "own-unseen-network", chapter="15_your_network", unit="points",
    statement="On a network that the book never saw, images made from BatchNorm calibrate four bits better than noise.",
)  # fmt: skip
def images_calibrate_an_unseen_network(run):
    """Both sets of images are as large, and nothing else differs."""
    return above(run.accuracy("top1", "4w4a BNS") - run.accuracy("top1", "4w4a noise"))


@criterion(
    "own-exported", chapter="15_your_network", unit="points", tolerance=0.5,
    why="integers and simulated rounding may break ties differently; beyond it, something else is computed",
    statement="An exported network is as right in onnxruntime as its simulation is here.",
)  # fmt: skip
def exported_networks_are_as_right(run):
    """On the same test images, for the float network and two quantised ones."""
    return {
        name: within(run.accuracy("onnxruntime", name) - run.accuracy("simulated", name), 0.0, 0.5)
        for name in run.metric("file_kilobytes")
    }


SHOOTOUT = "13_shootout"


def _widths_up_to_four(run: Run) -> list[str]:
    """Names of the widths of four bits and fewer at which the run rounded."""
    found = [f"w{b}a{b}" for b in run.parameter("bits").split() if int(b) <= 4]
    if not found:
        raise Missing("the run rounded to no width of four bits or fewer.")
    return found


@criterion(
    "own-shootout-distilled", chapter=SHOOTOUT, unit="points",
    statement="On one quantiser and one budget, at four bits and fewer, distillation on synthetic images keeps more than the "
    "layer-wise method and than Feature Regression.",
)  # fmt: skip
def distillation_wins_at_four_bits(run):
    """At each width of four bits and fewer, over either rival."""
    return {
        f"{name}, over {rival}": above(
            run.accuracy("by_bits", "KW, distilled", name) - run.accuracy("by_bits", rival, name)
        )
        for name in _widths_up_to_four(run)
        for rival in ("Layer-Wise", "FRanDI")
    }


@criterion(
    "own-shootout-moments", chapter=SHOOTOUT, unit="points",
    statement="With half the multiplications, channels that are repaired by the moments of synthetic images keep more, before "
    "any training, than UDFC's closed form, Neuron Merging and a factorised network after Feature Regression.",
)  # fmt: skip
def moments_win_at_half(run):
    """At half the multiplications, over each of the three."""
    half = "50% fewer"
    mine = run.accuracy("by_share", "moments of images", half)
    rivals = ("closed form", "Neuron Merging", "FRanDI, low rank")
    return {f"over {rival}": above(mine - run.accuracy("by_share", rival, half)) for rival in rivals}


@criterion(
    "own-shootout-real", chapter=SHOOTOUT, unit="points", tolerance=3.0, why="the statement's own number",
    statement="At four bits, distillation on as many real images is at most three points better than on synthetic ones.",
)  # fmt: skip
def real_images_are_three_points_better_at_most(run):
    """The same student, steps and number of images."""
    if "4" not in run.parameter("bits").split():
        raise Missing("the run did not round to four bits.")
    return above(
        run.accuracy("by_bits", "KW, distilled", "w4a4") - run.accuracy("by_bits", "real images", "w4a4"), -3.0
    )
