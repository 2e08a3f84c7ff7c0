"""The page of runs at the papers' scale: values of all seeds, the paper's numbers beside them, nothing from the book's profile."""

import pytest

from datafree.book import paper_scale
from datafree.evidence import claims

SOURCES = list(paper_scale.COLUMNS)
KERNEL_ROWS = ("4w4a", "4w4a, 8-bit edges", "4w8a, 8-bit edges")


def record(notebook, seed=0, profile="reduced", **metrics):
    return {"notebook": notebook, "profile": profile, "seed": seed, "metrics": metrics, "command": f"datafree run {notebook}",
            "parameters": {"seed": seed, "model": "resnet44", "steps": 200, "weights": "PATH/x.th"}}  # fmt: skip


def calibrated(value, **more):
    rows = {row: {name: [value, value + 1] for name in SOURCES} for row in paper_scale.CALIBRATION}
    kernels = {name: {row: {"0.375": [value], "1.0": [value]} for row in KERNEL_ROWS} for name in paper_scale.KERNELS}
    return record("02_kw_calibration", top1=rows, kernel_top1=kernels, **more)


def test_without_records_the_page_says_so():
    assert "No such run is recorded yet." in paper_scale.page([])
    assert "No such run is recorded yet." in paper_scale.page([calibrated(80.0, profile="book")])


def test_calibration_stands_beside_the_paper():
    text = paper_scale.page([calibrated(80.0), calibrated(82.0, seed=1)])
    assert "81.50 ± 1.29 (4)" in text, "mean and deviation of 80, 81, 82, 83"
    where = {"stage": "calibration", "model": "ResNet44", "config": "4w4a", "first_last_bits": None}
    value, spread = claims.paper_value("knowledge_within", "T1", where, "bns")
    assert f"{value} ± {spread}" in text
    assert "seed1.json" in text and "datafree run 02_kw_calibration" in text and "`steps` 200" in text
    assert "PATH" not in text, "files of a machine are no settings"


def test_the_kernels_of_table_5_stand_beside_the_paper():
    text = paper_scale.page([calibrated(80.0)]).split("## Table 5")[1]
    assert text.count("| here |") == text.count("| paper |") == 6
    assert "87.44 ± 0.13" in text and "92.33 ± 0.04" in text


def test_methods_of_quantisation_are_listed_by_network_and_width():
    rows = [{"network": "vgg", "bits": 8, "nothing": 80.0, "DI": None, "ours": 82.0, "ours, logits": 0.1}]
    text = paper_scale.page(
        [record("06_lw_quantization", table=rows, lite_table=[{"bits": 7, "nothing": 5.0, "ours": 81.0}])]
    )
    assert "| vgg, 8 bit | here | 80 | – | 82 |" in text and "| 7 bit | here | 5 | 81 |" in text


def recovery(**metrics):
    known = {"stages": {}, "table1": {}, "table2": [], "synthesis_steps": {"steps": [], "top1": [], "J_KL": []}}
    return record("09_frandi_recovery", **known | metrics)


def test_priors_and_losses_of_recovery_stand_beside_the_paper():
    table2 = [
        {"loss": loss, "position": place, "top-1 (%)": value}
        for loss, place, value in (("FitNets", "BN", 10.0), ("FD", "Conv", 83.0), ("FD", "BN", 82.0))
    ]
    text = paper_scale.page([recovery(table1={"none": [80.0, 82.0], "TV": [81.0]}, table2=table2)])
    assert "| top-1 (%) | here | 81.00 ± 1.41 (2) | – | 81 | – |" in text
    assert "| paper | 73.74 ± 0.14 | 73.61 ± 0.15 | 73.53 ± 0.18 | 73.48 ± 0.16 |" in text
    assert "| top-1 (%) | here | 10 | 83 | 82 |" in text and "| paper | 1.0 | 73.66 | – |" in text


def test_stages_of_recovery_and_steps_of_synthesis_are_listed():
    stages = {"float": 91.0, "compressed": 30.0, "recovered": 85.0, "share of the rest that recovery brings back": 0.6}
    steps = {"steps": [125, 500], "top1": [80.0, 84.0], "J_KL": [0.5, 0.1]}
    text = paper_scale.page([recovery(stages=stages, synthesis_steps=steps)])
    assert "| resnet44 | here | 91 | 30 | 85 |" in text and "| | | 125 steps | 500 steps |" in text.replace(
        "|  |  |", "| | |"
    )
    assert "| divergence (nats) | here | 0.5 | 0.1 |" in text


def test_searched_networks_are_listed_by_reduction():
    rows = [{"network": "vgg", "times fewer FLOPs": 2.995, "float": 90.0, "recovered": 85.0}]
    text = paper_scale.page([record("10_frandi_selection", table5=rows)])
    assert "| vgg, 3 times fewer FLOPs | here | 90 | 85 |" in text


def test_rounded_networks_stand_beside_the_paper():
    table9 = [{"bits": "w3a3", "before": 60.0, "synthetic": 75.0, "real": 80.0}]
    table6 = {"before": 78.0, "percent": [1.0, 100.0], "top1": [[80.0, 81.0], [82.0, 83.0]]}
    text = paper_scale.page([record("11_frandi_prune_quantize", table9=table9, table6=table6)])
    printed = claims.paper_value("frandi", "T9", {"dataset": "CIFAR-10", "settings": "w3a3"}, "synthetic_data")[0]
    assert "| w3a3 | here | 60 | 75 | 80 |" in text and f"| {printed} |" in text
    assert "| none | 1 % | 100 % |" in text and "80.50 ± 0.71 (2)" in text and "73.55 ± 0.03" in text


def test_repairs_are_listed_by_pruned_share():
    shares = {"shares": [0.3, 0.5], "by l2 norm": {"no repair": [70.0, 20.0], "closed form": [78.0, 44.0]}}
    text = paper_scale.page([record("08_udfc", top1_by_share=shares)])
    assert "30% pruned | 50% pruned" in text and "| closed form | here | 78 | 44 |" in text


def test_distillation_and_correspondence_have_their_rows():
    floats = dict.fromkeys(SOURCES, 61.0)
    text = paper_scale.page([
        record("03_kw_distillation", calibrated=dict.fromkeys(SOURCES, 20.0), distilled=floats),
        record("04_kw_correspondence", pooled={"CIFAR-10": {"CIFAR-10": 0.02, "random": 0.5}}),
    ])  # fmt: skip
    assert "here, calibrated" in text and "| 61 |" in text
    assert "88.52" in text and "0.023" in text and "0.498" in text


@pytest.mark.parametrize("missing", [None, []])
def test_a_value_that_is_missing_is_a_dash_and_one_number_has_no_deviation(missing):
    sets = {"CIFAR-10": missing, "random": 0.02222}
    text = paper_scale.page([record("04_kw_correspondence", pooled={"CIFAR-10": sets})])
    assert "J_KL (nats) | here | – | – | – | – | 0.0222 | – |" in text


def test_all_columns_of_table_3_stand_beside_the_paper():
    sets = {"CIFAR-10": 0.04, "CIFAR-100": 0.02, "natural": 0.03, "digits": 0.1, "random": 1.0}
    attacked = {"normalised": {"CIFAR-100": {"0.1": 2.1}}}
    text = paper_scale.page([record("04_kw_correspondence", pooled={"CIFAR-100": sets}, fgsm_ratio=attacked)])
    assert "| times its own set | here | 2 | 1 | 5 | 1.5 | 50 | 2.1 |" in text
    assert "|  | paper | 1.1 | 1.0 | 3.9 | 1.3 | 14.8 | 1.9 |" in text
