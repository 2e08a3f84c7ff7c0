"""The transcribed facts, and what reads them."""

import pytest

from datafree import files
from datafree.errors import DataFreeError
from datafree.evidence import claims as claims_module
from datafree.evidence.claims import claim, paper_value

CLAIM = "- {{id: {}, paper: knowledge_within, statement: s, where: w, kind: value, how_to_check: h}}\n"


@pytest.fixture
def papers(tmp_path, monkeypatch):
    """A folder of one's own in place of book/papers."""
    monkeypatch.setattr(files, "PAPERS", tmp_path)
    return tmp_path


def test_all_claims_are_there_once():
    claims = claims_module.claims()
    assert len(claims) == 196
    assert {c.paper for c in claims.values()} == set(claims_module.papers())
    assert sum(c.paper == "knowledge_within" for c in claims.values()) == 70


def test_table_3_is_table_4_over_its_own_data_set():
    own = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "MNIST": "mnist", "SVHN": "svhn"}
    columns = claims_module.table("knowledge_within", "T3")["columns"][1:]
    for trained, reference in own.items():
        where = {"train_dataset": trained}
        base, _ = paper_value("knowledge_within", "T4", where, reference)
        for column in columns:
            ratio, _ = paper_value("knowledge_within", "T3", where, column)
            raw, _ = paper_value("knowledge_within", "T4", where, column)
            assert ratio == pytest.approx(raw / base, abs=0.0501), (trained, column)


def test_table_5_repeats_table_1():
    """The rows at sigma 1.0 are the calibration rows of table 1: the columns were read rightly."""
    for config, footnote in (("4w4a", None), ("4w8a", 1)):
        where = {"config": config, "footnote": footnote}
        for column in ("inception", "bns_plus_inception"):
            fifth = paper_value("knowledge_within", "T5", where | {"sigma": 1.0}, column)
            first = paper_value("knowledge_within", "T1", where | {"model": "ResNet44", "stage": "calibration"}, column)
            assert fifth == first


def test_every_row_keeps_to_its_columns():
    for paper, content in claims_module.papers().items():
        for name, table in content["tables"].items():
            for row in table["rows"]:
                assert set(row) - {"bold"} <= set(table["columns"]), (paper, name, row)


def test_value_and_spread():
    where = {"stage": "calibration", "config": "4w4a", "model": "ResNet44"}
    assert paper_value("knowledge_within", "T1", where, "bns") == (88.5, 0.13)
    assert paper_value("knowledge_within", "T1", where, "float_top1") == (93.23, None)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("knowledge_witin", "T1", {}, "bns"), "did you mean 'knowledge_within'"),
        (("knowledge_within", "T9", {}, "bns"), "no table 'T9'; known: T1"),
        (("udfc", "T1", {}, "bns"), "known: none"),
        (("knowledge_within", "T1", {"colour": 1}, "bns"), "no column 'colour'"),
        (("knowledge_within", "T1", {}, "bsn"), "no column 'bsn'"),
        (("knowledge_within", "T1", {"config": "4w4a"}, "bns"), "4 rows|5 rows|exactly one"),
        (("knowledge_within", "T1", {"config": "9w9a"}, "bns"), "^0 rows"),
        (("knowledge_within", "T6", {"steps": 45036}, "measured_jkl"), "prints no number"),
        (("knowledge_within", "T6", {"steps": 45036}, "star"), "prints no number"),
    ],
)
def test_bad_questions_get_a_sentence(arguments, words):
    with pytest.raises(DataFreeError, match=words):
        paper_value(*arguments)


def test_unknown_claim_names_the_nearest():
    with pytest.raises(DataFreeError, match="'kw-c1'.*did you mean 'kw-c"):
        claim("kw-c1")


@pytest.mark.parametrize(
    "text, words",
    [
        ("claims:\n" + CLAIM.format("kw-c01") * 2, "'kw-c01' twice"),
        ("claims:\n" + CLAIM.format("kw c01"), "not a claim id"),
        ("claims:\n- {id: kw-c01}\n", "kw-c01.*statement"),
        ("claims:\n- {id: kw-c01, paper: 3, statement: s, where: w, kind: k, how_to_check: h}\n", "'paper'.*string"),
        ("claims:\n" + CLAIM.format("kw-c01").replace("kind", "colour: red, kind"), "colour.*Known parameters"),
        ("claims: many\n", "must hold a list"),
        ("- 1\n", "must hold a list"),
        ("", "must hold a list"),
        ("claims: [\n", "claims.yaml', line 2 is not valid YAML"),
        ("claims: []\nclaims: []\n", "'claims' is given twice"),
        ("claims: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_broken_claims_file(papers, text, words):
    (papers / "claims.yaml").write_text(text)
    with pytest.raises(DataFreeError, match=words):
        claims_module.claims()


def test_missing_and_binary_files(papers):
    with pytest.raises(DataFreeError, match="claims.yaml' cannot be read"):
        claims_module.claims()
    (papers / "tables.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataFreeError, match="tables.yaml'"):
        claims_module.papers()
