"""Strict parameters, profiles, and the notebooks' parameters cells."""

import ast
import math

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafree import files
from datafree.book import parameters
from datafree.config import scalar, triple
from datafree.errors import DataFreeError

PROFILES = ("smoke", "book", "paper")
GIVEN = {"weights": "deeplab.pt", "root": "voc"}


def _asked(notebook, profile):
    values = parameters.load_profile(profile).get(notebook, {})
    return {name: GIVEN.get(name, "x") for name, value in values.items() if value == parameters.ASK}


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """A tree of one's own, with a folder of profiles."""
    folder = tmp_path / "notebooks" / "profiles"
    folder.mkdir(parents=True)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    (folder / "book.yaml").write_text("{}\n")
    return folder


@pytest.mark.parametrize("notebook", parameters.NOTEBOOKS)
def test_every_notebook_has_seed_and_profile(notebook):
    fields = parameters.NOTEBOOKS[notebook].model_fields
    assert fields["seed"].annotation is int and fields["profile"].annotation is str
    for name, field in fields.items():
        assert field.description, f"{notebook}: {name} has no description"
        assert isinstance(field.default, int | float | str), "papermill passes scalars"


@pytest.mark.parametrize("notebook", parameters.NOTEBOOKS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_fits_every_notebook(notebook, profile):
    config = parameters.resolve(notebook, profile, _asked(notebook, profile), seed=3)
    assert (config.seed, config.profile) == (3, profile)
    assert parameters.overridden(notebook, config) == {}


def test_book_is_the_default():
    for notebook, cls in parameters.NOTEBOOKS.items():
        assert parameters.resolve(notebook) == cls()


@pytest.mark.parametrize("notebook", parameters.NOTEBOOKS)
def test_parameters_cell_has_the_defaults(notebook):
    """The one cell tagged 'parameters' sets each parameter of the class to its default, and nothing else."""
    path = files.ROOT / "notebooks" / f"{notebook}.ipynb"
    assert path.is_file(), f"{path} is missing"
    cells = [c for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    found = {}
    for statement in ast.parse(cells[0].source).body:
        assert isinstance(statement, ast.Assign | ast.AnnAssign), "only assignments belong into the parameters cell"
        target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        found[target.id] = ast.literal_eval(statement.value)
    expected = parameters.NOTEBOOKS[notebook]().model_dump()
    assert found == expected
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}


def test_no_notebook_is_without_parameters():
    assert {p.stem for p in (files.ROOT / "notebooks").glob("*.ipynb")} <= set(parameters.NOTEBOOKS)


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("stepps", "3", "stepps.*Known parameters: seed"),
        ("steps", "abc", "'steps'.*integer"),
        ("steps", "3.5", "'steps'.*integer"),
        ("steps", "true", "'steps'.*integer"),
        ("steps", "", "'steps'"),
        ("steps", "null", "'steps'"),
        ("steps", "[1]", "'steps'"),
        ("steps", "0", "greater than or equal to [12]"),
        ("steps", "-5", "greater than or equal to [12]"),
        ("steps", "9" * 5000, "'steps'"),
        ("rate", "nan", "finite"),
        ("rate", ".NaN", "finite"),
        ("rate", math.nan, "finite"),
        ("rate", "-.inf", "finite"),
        ("rate", "0", "greater than 0"),
        ("rate", "fast", "'rate'.*number"),
        ("precision", "fp8", "'float32', 'bf16' or 'auto'"),
        ("model", "", "'model'"),
        ("model", 3, "'model'.*string"),
        ("mean", "0.5 0.5", "'mean'"),
        ("mean", "a b c", "'mean'"),
        ("seed", "1", "give --seed"),
        ("profile", "paper", "give --profile"),
    ],
)
def test_bad_overrides_are_refused(name, value, words):
    with pytest.raises(DataFreeError, match=words):
        parameters.resolve("01_kw_synthesis", "book", {name: value})


@pytest.mark.parametrize("seed", [-1, 2**31, "0", 1.0, True, None])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(DataFreeError, match="'seed'"):
        parameters.resolve("00_start", "book", {}, seed=seed)


def test_good_overrides():
    given = {"steps": "20", "rate": "1e-3", "root": "2020", "precision": "bf16", "mean": "0.485, .456 0.406"}
    config = parameters.resolve("01_kw_synthesis", "smoke", given)
    assert (config.steps, config.rate, config.root, config.precision) == (20, 1e-3, "2020", "bf16")
    assert triple(config.mean) == (0.485, 0.456, 0.406) and triple(config.std) is None
    assert set(parameters.overridden("01_kw_synthesis", config)) == set(given)
    assert config.batch == 16, "the rest is the profile's"


def test_unknown_notebook_and_profile():
    with pytest.raises(DataFreeError, match="did you mean '01_kw_synthesis'"):
        parameters.resolve("01_kw_sythesis")
    with pytest.raises(DataFreeError, match="'bok'.*did you mean 'book'"):
        parameters.resolve("00_start", "bok")
    with pytest.raises(DataFreeError, match="profile '../profiles/book'"):
        parameters.load_profile("../profiles/book")


def test_what_a_profile_leaves_to_the_user_must_be_given():
    with pytest.raises(DataFreeError, match="leaves weights, root to you; give -p weights=VALUE"):
        parameters.resolve("12_frandi_segmentation", "paper")


@pytest.mark.parametrize(
    "text, words",
    [
        ("01_kw_sinthesis: {steps: 3}", "'01_kw_sinthesis' that does not exist.*did you mean '01_kw_synthesis'"),
        ("01_kw_synthesis: {stepz: 3}", "stepz.*Known parameters"),
        ("01_kw_synthesis: {stepz: '?'}", "stepz.*Known parameters"),
        ("01_kw_synthesis: {steps: '150'}", "'steps'.*integer"),
        ("01_kw_synthesis: {steps: 0}", "greater than"),
        ("01_kw_synthesis: {rate: .nan}", "finite"),
        ("01_kw_synthesis: {seed: 3}", "belongs to a run"),
        ("01_kw_synthesis: [steps, 3]", "'name: value'"),
        ("01_kw_synthesis: {3: 3}", "'name: value'"),
        ("01_kw_synthesis: {steps: 3, steps: 4}", "'steps' is given twice"),
        ("- 01_kw_synthesis", "must map"),
        ("01_kw_synthesis: {", "not valid YAML"),
    ],
)
def test_broken_profiles_are_named(profiles, text, words):
    (profiles / "mine.yaml").write_text(text)
    with pytest.raises(DataFreeError, match=words) as caught:
        parameters.load_profile("mine")
    assert "mine.yaml" in str(caught.value)


def test_an_empty_profile_is_the_defaults(profiles):
    (profiles / "mine.yaml").write_text("# nothing\n00_start:\n")
    assert parameters.resolve("00_start", "mine", seed=1) == parameters.Start(seed=1, profile="mine")


@given(st.integers(2, 100_000), st.floats(1e-9, 10, exclude_min=True))
def test_numbers_survive_as_text(steps, rate):
    config = parameters.resolve("01_kw_synthesis", "book", {"steps": str(steps), "rate": repr(rate)})
    assert config.steps == steps and config.rate == pytest.approx(rate, rel=1e-12)


@given(st.text(max_size=20))
def test_any_text_is_a_scalar_or_itself(text):
    value = scalar(text)
    assert value is None or isinstance(value, bool | int | float | str)


@given(
    st.dictionaries(
        st.text(max_size=8), st.one_of(st.text(max_size=8), st.integers(), st.floats(), st.none(), st.booleans())
    )
)
def test_any_override_is_taken_or_explained(overrides):
    try:
        config = parameters.resolve("02_kw_calibration", "book", overrides)
    except DataFreeError as error:
        assert str(error).endswith(".")
    else:
        assert set(overrides) <= set(type(config).model_fields)
