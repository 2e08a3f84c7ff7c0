"""The page of runs at the papers' own scale: what was measured beside what the paper prints, from committed records."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import DataFreeError
from ..evidence import claims
from . import markdown

PAPER = "knowledge_within"
COLUMNS = {"real": "training_set", "BNS": "bns", "BNS + I": "bns_plus_inception", "I": "inception", "G": "gaussian"}
"""Sources of images and their columns in table 1."""

SETS = {
    "CIFAR-10": ("CIFAR-10", "cifar10"),
    "CIFAR-100": ("CIFAR-100", "cifar100"),
    "digits for MNIST": ("digits", "mnist"),
    "ImageNet for STL10": ("natural", "stl10"),
    "random": ("random", "random"),
}
"""Heads of tables 3 and 4: the set of the correspondence chapter, and the paper's column."""

CALIBRATION = {"4w8a, 8-bit edges": ("4w8a", 8), "4w4a": ("4w4a", None), "2w4a, 4-bit edges": ("2w4a", 4)}
"""Rows of the calibration chapter that table 1 has too: bits, and bits of the edges."""

KERNELS = {"I": "inception", "BNS + I": "bns_plus_inception"}
"""Sources whose images are smoothed, and their columns in table 5."""

UNIT = {"bits": "bit"}
"""Names of numbers that label rows, as they are written behind the number."""

Rows = list[list[str]]
Table = tuple[list[str], Rows]
"""Heads of the columns of numbers, and rows: label, whose, numbers."""


def _values(found: Iterable[Any]) -> str:
    """Mean and standard deviation of numbers or lists of numbers, with their count; a dash where there is none."""
    flat = [v for item in found for v in (item if isinstance(item, list) else [item]) if v is not None]
    if not flat:
        return "–"
    if len(flat) == 1:
        return f"{flat[0]:.3g}"
    return f"{statistics.mean(flat):.2f} ± {statistics.stdev(flat):.2f} ({len(flat)})"


def _printed(table: str, where: dict, column: str, paper: str = PAPER) -> str:
    try:
        value, spread = claims.paper_value(paper, table, where, column)
    except DataFreeError:
        return "–"
    return f"{value}" if spread is None else f"{value} ± {spread}"


def _pair(label: str, here: list[str], paper: list[str]) -> Rows:
    return [[label, "here", *here], ["", "paper", *paper]]


def calibration(found: list[dict]) -> Table:
    """Table 1's calibration rows: here and as printed."""
    rows: Rows = []
    for label, (config, edge) in CALIBRATION.items():
        where = {"stage": "calibration", "model": "ResNet44", "config": config, "first_last_bits": edge}
        here = [_values(r["metrics"]["top1"][label].get(name) for r in found) for name in COLUMNS]
        rows += _pair(label, here, [_printed("T1", where, column) for column in COLUMNS.values()])
    return list(COLUMNS), rows


def kernels(found: list[dict]) -> Table:
    """Table 5: the width of the kernel that smooths the images, here and as printed."""
    rows: Rows = []
    for config, edge in (("4w4a", None), ("4w4a", 8), ("4w8a", 8)):
        label = f"{config}, 8-bit edges" if edge else config
        for sigma in ("0.375", "1.0"):
            where = {"config": config, "first_last_bits": edge, "sigma": float(sigma)}
            here = [_values(r["metrics"]["kernel_top1"][name][label].get(sigma) for r in found) for name in KERNELS]
            paper = [_printed("T5", where, column) for column in KERNELS.values()]
            rows += _pair(f"{label}, $\\sigma$ {sigma}", here, paper)
    return list(KERNELS), rows


def _methods(found: list[dict], metric: str, where: tuple[str, ...]) -> Table:
    """A table of the quantisation chapter: one row for each `where`, one column for each method."""
    first = found[0]["metrics"][metric]
    methods = [name for name in first[0] if name not in where and "," not in name]
    rows = []
    for k, entry in enumerate(first):
        label = ", ".join(
            v if isinstance(v := entry[name], str) else f"{v:.3g} {UNIT.get(name, name)}" for name in where
        )
        rows.append([label, "here", *(_values(r["metrics"][metric][k].get(m) for r in found) for m in methods)])
    return methods, rows


def quantization(found: list[dict]) -> Table:
    """Table I's shape of the layer-wise paper, on the book's networks."""
    return _methods(found, "table", ("network", "bits"))


def lite(found: list[dict]) -> Table:
    """EfficientNet-Lite0, agreement with its float self."""
    return _methods(found, "lite_table", ("bits",))


def repair(found: list[dict]) -> Table:
    """Chapter 08's accuracies by pruned share; we had the paper's abstract and introduction only, so nothing stands beside them."""
    shares = found[0]["metrics"]["top1_by_share"]["shares"]
    by_norm = [r["metrics"]["top1_by_share"]["by l2 norm"] for r in found]
    rows = [[name, "here", *(_values(r[name][k] for r in by_norm) for k in range(len(shares)))] for name in by_norm[0]]
    return [f"{share:.0%} pruned" for share in shares], rows


def recovery(found: list[dict]) -> Table:
    """Chapter 09's network from its float state to the recovered one."""
    columns = [name for name in found[0]["metrics"]["stages"] if "share" not in name]
    here = [_values(r["metrics"]["stages"][name] for r in found) for name in columns]
    return columns, [[found[0]["parameters"]["model"], "here", *here]]


def regularisers(found: list[dict]) -> Table:
    """Table 1 of FRanDI: priors of images in their loss, here and as printed for CIFAR-100."""
    settings = {"none": (False, False), "L2": (False, True), "TV": (True, False), "both": (True, True)}
    here = [_values(r["metrics"]["table1"].get(name) for r in found) for name in settings]
    paper = [_printed("T1", {"tv": tv, "l2": l2}, "top1", "frandi") for tv, l2 in settings.values()]
    return list(settings), _pair("top-1 (%)", here, paper)


def losses(found: list[dict]) -> Table:
    """Table 2 of FRanDI: seven losses of recovery, here and as printed for CIFAR-100."""
    names = [(row["loss"], row["position"]) for row in found[0]["metrics"]["table2"]]
    tables = [{(row["loss"], row["position"]): row["top-1 (%)"] for row in r["metrics"]["table2"]} for r in found]
    here = [_values(table.get(name) for table in tables) for name in names]
    paper = [
        _printed("T2", {"loss": "FD (proposed)" if loss == "FD" else loss, "position": place}, "top1", "frandi")
        for loss, place in names
    ]
    return [", ".join(name) for name in names], _pair("top-1 (%)", here, paper)


def synthesis_steps(found: list[dict]) -> Table:
    """Chapter 09: how long the images are optimised."""
    by_run = [r["metrics"]["synthesis_steps"] for r in found]
    columns = [f"{n} steps" for n in by_run[0]["steps"]]
    kinds = {"recovered (top-1, %)": "top1", "divergence (nats)": "J_KL"}
    rows = [
        [label, "here", *(_values(run[k][i] for run in by_run) for i in range(len(columns)))]
        for label, k in kinds.items()
    ]
    return columns, rows


def selection(found: list[dict]) -> Table:
    """Table 5's shape of FRanDI, on the book's networks."""
    return _methods(found, "table5", ("network", "times fewer FLOPs"))


def rounding(found: list[dict]) -> Table:
    """Table 9 of FRanDI: four widths before and after recovery, here and as printed for CIFAR-10."""
    columns = {"before": "before_finetuning", "synthetic": "synthetic_data", "real": "real_data"}
    rows: Rows = []
    for k, entry in enumerate(found[0]["metrics"]["table9"]):
        where = {"dataset": "CIFAR-10", "settings": entry["bits"]}
        here = [_values(r["metrics"]["table9"][k][name] for r in found) for name in columns]
        rows += _pair(entry["bits"], here, [_printed("T9", where, column, "frandi") for column in columns.values()])
    return list(columns), rows


def real_share(found: list[dict]) -> Table:
    """Table 6 of FRanDI: fine-tuning on a share of the training images after recovery, here and as printed for CIFAR-100."""
    by_run = [r["metrics"]["table6"] for r in found]
    percents = by_run[0]["percent"]
    here = [_values(run["top1"][k] for run in by_run) for k in range(len(percents))]
    paper = [_printed("T6", {"dataset_percent": int(p)}, "top1", "frandi") for p in percents]
    start = str(claims.table("frandi", "T6")["setting"]["top1_before_finetune"])
    columns = ["none", *(f"{p:g} %" for p in percents)]
    return columns, _pair("top-1 (%)", [_values(run["before"] for run in by_run), *here], [start, *paper])


def distillation(found: list[dict]) -> Table:
    """Table 1's distillation row for 50 images a class, with the calibrated start."""
    where = {"stage": "kd", "model": "ResNet44", "samples_per_class": 50}
    start = [_values(r["metrics"]["calibrated"].get(name) for r in found) for name in COLUMNS]
    here = [_values(r["metrics"]["distilled"].get(name) for r in found) for name in COLUMNS]
    anew = [_values(r["metrics"].get("batchnorm_only", {}).get(name) for r in found) for name in COLUMNS]
    paper = [_printed("T1", where, column) for column in COLUMNS.values()]
    first = [["2w4a, 4-bit edges", "here, calibrated", *start], ["", "here, BatchNorm measured anew", *anew]]
    return list(COLUMNS), [*first, *_pair("", here, paper)]


def _over(value: float | None, own: float | None) -> float | None:
    return value / own if value and own else None


def correspondence(found: list[dict]) -> Table:
    """Tables 4 and 3: divergence of each set under the networks of CIFAR-10 and CIFAR-100, and its ratio to the own set."""
    rows: Rows = []
    for owner in ("CIFAR-10", "CIFAR-100"):
        under = [r["metrics"]["pooled"][owner] for r in found if owner in r["metrics"]["pooled"]]
        where = {"train_dataset": owner}
        if under:
            here = [_values(row.get(name) for row in under) for name, _ in SETS.values()]
            paper = [_printed("T4", where, column) for _, column in SETS.values()]
            rows += _pair(f"network of {owner}, J_KL (nats)", [*here, "–"], [*paper, "–"])
            here = [_values(_over(row.get(name), row[owner]) for row in under) for name, _ in SETS.values()]
            paper = [_printed("T3", where, column) for _, column in (*SETS.values(), ("FGSM", "fgsm"))]
            attacked = [r["metrics"].get("fgsm_ratio", {}).get("normalised", {}).get(owner, {}) for r in found]
            rows += _pair("times its own set", [*here, _values(a.get("0.1") for a in attacked)], paper)
    return [*SETS, "FGSM 0.1"], rows


TABLES = (
    ("02_kw_calibration", "Table 1, calibration (top-1, %)", calibration),
    ("02_kw_calibration", "Table 5, width of the smoothing kernel (top-1, %)", kernels),
    ("03_kw_distillation", "Table 1, distillation (top-1, %)", distillation),
    ("04_kw_correspondence", "Tables 4 and 3, networks of CIFAR", correspondence),
    ("06_lw_quantization", "Layer-wise quantisation, table I's shape (top-1, %)", quantization),
    ("06_lw_quantization", "EfficientNet-Lite0, agreement with its float self on ImageNet samples (%)", lite),
    ("08_udfc", "UDFC, channels pruned in the first layer of each pair (top-1, %)", repair),
    ("09_frandi_recovery", "FRanDI, split convolutions recovered (top-1, %)", recovery),
    ("09_frandi_recovery", "FRanDI, table 1, priors of images (top-1, %)", regularisers),
    ("09_frandi_recovery", "FRanDI, table 2, losses of recovery (top-1, %)", losses),
    ("09_frandi_recovery", "FRanDI, steps of synthesis", synthesis_steps),
    ("10_frandi_selection", "FRanDI, table 5's shape (%)", selection),
    ("11_frandi_prune_quantize", "FRanDI, table 9, rounded networks (top-1, %)", rounding),
    ("11_frandi_prune_quantize", "FRanDI, table 6, a share of real images after recovery", real_share),
)
"""Notebook, title, and the function that makes the table."""


def _section(notebook: str, profile: str, found: list[dict], title: str, make: Callable[[list[dict]], Table]) -> dict:
    """What the page says of one table: its numbers, and the runs they come from."""
    columns, rows = make(found)
    parameters = found[0]["parameters"]
    return {
        "title": title,
        "profile": profile,
        "columns": columns,
        "rows": rows,
        "records": {r["seed"]: f"records/{profile}/{notebook}/seed{r['seed']}.json" for r in found},
        "command": found[0]["command"],
        "model": parameters["model"],
        "settings": {k: v for k, v in parameters.items() if isinstance(v, int | float) and k != "seed"},
    }


def page(found: list[dict]) -> str:
    """The page, from all records; a sentence where no run of that scale is recorded."""
    sections = []
    for notebook, title, make in TABLES:
        for profile in ("paper", "reduced"):
            mine = [r for r in found if r["notebook"] == notebook and r["profile"] == profile]
            if mine:
                sections.append(_section(notebook, profile, mine, title, make))
    return markdown.page("paper_scale", sections=sections)
