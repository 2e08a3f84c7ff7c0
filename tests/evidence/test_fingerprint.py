"""The fingerprint of a run: what changes a measurement changes it, and nothing else does."""

import pytest

from datafree import files
from datafree.evidence import fingerprint
from datafree.evidence.notebook_text import notebooks

SOURCE = '"""What it does."""\nimport math\n\n\ndef half(x):\n    """Half."""\n    return x / 2  # of it\n'


@pytest.fixture
def module(tmp_path):
    """Write a module and hash it."""

    def hashed(text):
        (tmp_path / "m.py").write_text(text)
        return fingerprint.code_hash(tmp_path / "m.py")

    return hashed


@pytest.mark.parametrize(
    "changed",
    [SOURCE.replace("Half.", "One half."), SOURCE.replace("  # of it", ""), SOURCE.replace('"""What it does."""', "")],
)
def test_docstrings_and_comments_do_not_count(module, changed):
    assert changed != SOURCE and module(changed) == module(SOURCE)


@pytest.mark.parametrize(
    "check",
    ["if x < 0:\n        raise ValueError(x)", "preflight.checked(x)", "from ..errors import DataFreeError"],
)
def test_checks_that_refuse_an_input_do_not_count(module, check):
    assert module(SOURCE.replace("    return", f"    {check}\n    return")) == module(SOURCE)


def test_a_branch_counts(module):
    branch = "if x < 0:\n        raise ValueError(x)\n    else:\n        x += 1"
    assert module(SOURCE.replace("    return", f"    {branch}\n    return")) != module(SOURCE)


@pytest.mark.parametrize("changed", [SOURCE.replace("/ 2", "/ 3"), SOURCE + "\nA = 1\n"])
def test_code_counts(module, changed):
    assert module(changed) != module(SOURCE)


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from datafree import UDFC", "datafree.papers.udfc.compression"),
        ("from datafree import compress", "datafree.api"),
        ("from datafree.core import quantizer", "datafree.core.quantizer"),
        ("from datafree.core.metrics import top1", "datafree.core.metrics"),
        ("import datafree.core.graph", "datafree.core.graph"),
    ],
)
def test_imports_lead_to_the_module_that_defines(source, module):
    assert fingerprint.imported(source) == {module}


def test_a_chapter_depends_on_its_own_paper_only():
    found = {m.split(".")[2] for m in fingerprint.modules_of("10_frandi_selection") if m.startswith("datafree.papers.")}
    assert "frandi" in found and not {"layerwise", "udfc"} & found


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.stem)
def test_every_notebook_has_one_and_it_follows_the_parameters(path):
    first, second = (fingerprint.fingerprint(path.stem, {"steps": n}) for n in (1, 2))
    assert first == fingerprint.fingerprint(path.stem, {"steps": 1}) != second


def test_what_draws_and_reports_does_not_count():
    for path in notebooks():
        assert not {"datafree.book.plots", "datafree.book.show", "datafree.evidence.ledger"} & fingerprint.modules_of(
            path.stem
        )


def test_text_of_a_notebook_does_not_count(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    text = (files.ROOT / "notebooks" / "00_start.ipynb").read_text()
    target = tmp_path / "notebooks" / "00_start.ipynb"
    before = fingerprint.notebook_code("00_start")
    monkeypatch.setattr(files, "ROOT", tmp_path)
    target.write_text(text.replace("seed = 0", "seed = 1"))
    assert fingerprint.notebook_code("00_start") == before
    target.write_text(text.replace("chapter.finish()", "chapter.finish();x = 1"))
    assert fingerprint.notebook_code("00_start") != before
