"""Tables of what the runs on record measured."""

import subprocess
import sys

from conftest import record_of

from datafree import files
from datafree.book import recorded

NOTEBOOK = "01_kw_synthesis"


def text(found, path="recipe", **options):
    return recorded.table(found, NOTEBOOK, path, "images", "top-1 (%)", **options)


def test_values_of_all_runs_of_a_scale_are_joined():
    runs = [record_of({"recipe": {"BNS": 60.0 + k, "real": 70.0}}, "reduced", seed=k) for k in range(3)]
    page = text(runs, caption="Recipes.")
    assert "61.00 ± 1.00" in page and "70.00 ± 0.00" in page
    assert "Recipes. On record, profile reduced: mean ± deviation of 3 runs." in page
    assert page.count("<tr>") == 3 and '<th scope="col">top-1 (%)</th>' in page


def test_the_scale_nearest_the_paper_that_has_the_metric_is_shown():
    runs = [
        record_of({"recipe": {"BNS": 1.0}}, "book"),
        record_of({"recipe": {"BNS": 2.0}}, "reduced"),
        record_of({"other": 3.0}, "paper"),
        record_of({"recipe": {"BNS": 4.0}}, "smoke"),
    ]
    page = text(runs)
    assert "2.00" in page and "profile reduced: one run" in page


def test_names_inside_entries_are_columns_and_repetitions_are_averaged():
    metrics = {"table": {"4w4a": {"BNS": [80.0, 82.0], "real": None}, "2w4a": {"BNS": [20.0]}}}
    page = text([record_of(metrics, "reduced")], "table")
    assert "81.00" in page and "20.00" in page and page.count("–") == 2
    page = text([record_of({"table": {"step 1": {"j_kl": 0.5, "top1": 60.0}}}, "reduced")], "table")
    assert "J_KL (nats)" in page and "top-1 (%)" in page and "j_kl" not in page


def test_a_path_leads_inside_and_nothing_on_record_is_said():
    found = [record_of({"a": {"b": {"c": 1.5}}}, "reduced")]
    assert "1.50" in text(found, "a/b")
    assert recorded.NONE in text(found, "a/x") and recorded.NONE in text([], "a")


def test_other_settings_of_data_and_network_are_shown_only_if_asked_for():
    runs = [record_of({"recipe": {"BNS": 2.0}}, "reduced"), record_of({"recipe": {"BNS": 5.0}}, "cifar100")]
    assert "5.00" not in text(runs) and "5.00" in text(runs, profile="cifar100")


def test_a_page_holds_the_table_and_a_sentence_where_there_is_none(tmp_path):
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(files.ROOT / 'book' / '_ext')!r})\n"
        "extensions = ['myst_parser', 'recorded']\nmyst_enable_extensions = ['colon_fence']\nroot_doc = 'index'\n"
    )
    asked = ":::{recorded} j_kl\n:notebook: 01_kw_synthesis\n:head: images\n:value: nats\n:caption: Levels.\n:::\n"
    (tmp_path / "index.md").write_text(f"# Page\n\n{asked}\n:::{{recorded}} nothing at all\n:::\n")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", tmp_path, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Levels. On record, profile" in page and "BNS + I" in page and recorded.NONE in page
