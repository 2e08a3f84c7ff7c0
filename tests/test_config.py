"""Parameters as people type them: pairs, groups, texts, numbers."""

from typing import Annotated, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from datafree.config import Strict, device_named, from_text, group_of, pairs, triple, validate
from datafree.errors import DataFreeError

Spread = Annotated[float, Field(gt=0)]


class Recovery(Strict):
    """A group."""

    steps: int = 10
    name: str = ""


class Settings(Strict):
    """A field of every kind."""

    steps: int = 5
    rate: float | None = 0.1
    exact: bool = False
    name: str = "x"
    root: str | None = None
    rule: Literal["mse", "null"] = "mse"
    bits: Annotated[int, Field(ge=2)] | None = None
    std: tuple[Spread, Spread, Spread] = (1.0, 1.0, 1.0)
    recovery: Recovery | None = None
    always: Recovery = Recovery()


def read(*given: str) -> Settings:
    return validate(Settings, from_text(Settings, pairs(given)))


@pytest.mark.parametrize(
    ("given", "said"), [(["steps"], "NAME=VALUE"), (["=3"], "NAME=VALUE"), (["a=1", "a=2"], "twice")]
)
def test_malformed_pairs(given, said):
    with pytest.raises(DataFreeError, match=said):
        pairs(given)


def test_values_may_hold_equals_signs():
    assert pairs(["data=folder:/a=b", "root="]) == {"data": "folder:/a=b", "root": ""}


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("steps=100", 100),
        ("rate=1e-3", 1e-3),
        ("rate=null", None),
        ("exact=true", True),
        ("name=true", "true"),
        ("name=17", "17"),
        ("name=", ""),
        ("root=2024", "2024"),
        ("root=null", None),
        ("rule=null", "null"),
        ("bits=4", 4),
        ("bits=", None),
        ("std=.1 .2 .3", (0.1, 0.2, 0.3)),
        ("std=0.1, 0.2, 0.3", (0.1, 0.2, 0.3)),
        ("recovery=null", None),
    ],
)
def test_a_text_means_what_its_field_expects(pair, value):
    found = getattr(read(pair), pair.partition("=")[0])
    assert found == value and type(found) is type(value)


def test_a_dot_leads_into_a_group():
    settings = read("recovery.steps=3", "recovery.name=4", "always.name=null", "steps=2")
    assert settings.recovery == Recovery(steps=3, name="4") and settings.always == Recovery(name="null")
    assert settings.steps == 2 and read().recovery is None
    assert group_of(Settings, "recovery") is group_of(Settings, "always") is Recovery
    assert group_of(Settings, "steps") is group_of(Settings, "nothing") is group_of(None, "steps") is None


@pytest.mark.parametrize("given", [("a=1", "a.b=2"), ("a.b=2", "a=1"), ("a=2", "a.b.c=1")])
def test_a_value_is_no_group(given):
    with pytest.raises(DataFreeError, match="both as a value and as a group"):
        read(*given)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("steps=many", "parameter 'steps'.*'many'"),
        ("steps=nan", "parameter 'steps'"),
        ("exact=yes", "parameter 'exact'"),
        ("bits=1", "parameter 'bits'"),
        ("std=1 2", "'1 2' was given in place of three numbers"),
        ("std=1 2 x", "'1 2 x' was given in place of three numbers"),
        ("std=", "parameter 'std'"),
        ("recovery.stesp=1", "'recovery.stesp': it is not known .did you mean 'steps'.*: steps, name.$"),
        ("nothing.at.all=1", "parameter 'nothing'.*Known parameters: steps, rate"),
        ("rule=best", "parameter 'rule'"),
    ],
)
def test_what_does_not_fit_is_explained(pair, said):
    with pytest.raises(DataFreeError, match=said):
        read(pair)


def test_what_is_no_text_stays_as_it_is():
    values = {"steps": 3, "name": None, "recovery": {"steps": 2}}
    assert from_text(Settings, values) == values


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_three_numbers_survive_as_text(numbers):
    assert triple(" ".join(map(repr, numbers))) == tuple(numbers)
    assert triple("  ") is None


@given(st.text(max_size=12), st.text(max_size=12))
def test_any_pair_is_taken_or_explained(name, value):
    try:
        settings = read(f"{name}={value}")
    except DataFreeError as error:
        assert str(error).endswith(".")
    else:
        assert name.partition(".")[0] in type(settings).model_fields


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu")])
def test_devices_by_name(name):
    assert device_named(name) == torch.device("cpu")


def test_auto_is_a_device_that_is_there():
    torch.zeros(1, device=device_named("auto"))


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda", "mps", ""])
def test_a_device_that_is_not_there_is_named(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DataFreeError, match=f"'{name}' is not there; this machine has auto, cpu."):
        device_named(name)
