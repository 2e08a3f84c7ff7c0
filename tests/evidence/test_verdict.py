"""The rule for verdicts: what the mathematics guarantees, and by simulation that its interval covers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datafree.errors import DataFreeError
from datafree.evidence.measured import Measured, accuracy, mean, pack, unpack
from datafree.evidence.verdict import above, below, effect_interval, headline, interval, judge, overall, within


def runs(values, **parts):
    return [{"": above(v)} for v in values]


def scattered(rng, seeds, images, by_seed, by_image, by_both):
    """Distances of a true effect of zero: shares of the seeds, of the images, and of both together."""
    u = rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_image, images) + rng.normal(0, by_both, (seeds, images))
    return [Measured(row.mean(), row) for row in u]


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("shares", [(1, 0, 0), (1, 10, 10), (0, 10, 10), (0.5, 5, 20), (3, 10, 10)])
def test_the_interval_covers(seeds, shares):
    """93 to 97 % of the intervals hold the truth, whoever brings the chance; 1,200 draws scatter by 0.6 points."""
    rng = np.random.default_rng(7)
    found = [interval(scattered(rng, seeds, 100, *shares)) for _ in range(1200)]
    assert 0.925 <= np.mean([i.low <= 0 <= i.high for i in found]) <= 0.975


@settings(max_examples=40)
@given(st.floats(0.5, 50), st.integers(3, 8), st.integers(1, 8), st.integers(0, 2**20))
def test_more_seeds_of_the_same_effect_never_turn_a_verdict_round(size, few, more, seed):
    rng = np.random.default_rng(seed)
    draws = size + rng.normal(0, size / 5, few + more)
    first, second = judge(runs(draws[:few]), "book").state, judge(runs(draws), "book").state
    assert "contradicted" not in (first, second)


@settings(max_examples=15)
@given(st.integers(0, 2**20))
def test_a_shuffled_label_decides_nothing(seed):
    """Both networks right on the same images, then which is which is drawn anew: seldom more than chance."""
    rng = np.random.default_rng(seed)
    states = []
    for _ in range(20):
        found = []
        for _ in range(3):
            a, b = accuracy(rng.random(400) < 0.8), accuracy(rng.random(400) < 0.8)
            found.append({"": above(a - b)})
        states.append(judge(found, "book").state)
    assert states.count("undecided") >= 15


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(0)
    base = [rng.random(1000) < 0.7 for _ in range(3)]
    better = [b | (rng.random(1000) < 0.1) for b in base]
    paired = interval([accuracy(x) - accuracy(y) for x, y in zip(better, base)])
    apart = interval([Measured(accuracy(x).value - accuracy(y).value, None, 4.2) for x, y in zip(better, base)])
    assert paired.low > 0 and paired.high - paired.low < apart.high - apart.low


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.1], [5.0, 5.0, 5.0, 5.0]])
def test_fewer_than_three_independent_runs_decide_nothing(values):
    """Equal numbers under several seeds are one measurement."""
    assert judge(runs(values), "book").state == "undecided"


@pytest.mark.parametrize(("ahead", "state"), [(0.2, "reproduced"), (-0.2, "contradicted"), (0.0, "undecided")])
def test_a_method_without_chance_is_decided_by_the_images(ahead, state):
    """Three seeds that change no image: n is one, and the interval is that of one paired comparison."""
    rng = np.random.default_rng(3)
    a, b = accuracy(rng.random(1000) < 0.7 + ahead), accuracy(rng.random(1000) < 0.7)
    verdict = judge([{"": above(a - b)}] * 3, "book")
    assert (verdict.state, verdict.n, verdict.runs) == (state, 1, 3)
    assert judge([{"": above(a - b)}] * 2, "book").state == "undecided"
    assert judge([{"": within(a - a, 0.0, 0.5)}] * 3, "book").state == "reproduced", "right on the same images"


@pytest.mark.parametrize(
    ("values", "state"),
    [([1, 1.1, 0.9], "reproduced"), ([-1, -1.1, -0.9], "contradicted"), ([1, -1, 0.2], "undecided")],
)
def test_signs_decide(values, state):
    assert judge(runs(values), "book").state == state


def test_a_compound_claim_is_partly_reproduced():
    found = [{"direction": above(1 + k / 50), "size": above(-5 + k / 50)} for k in range(4)]
    verdict = judge(found, "book")
    assert verdict.state == "partly" and verdict.parts["size"][0] == "contradicted" and verdict.weakest.mean < 0


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["reproduced", "undecided"], "partly"),
        (["contradicted", "undecided"], "contradicted"),
        (["undecided", "undecided"], "undecided"),
        (["reproduced", "contradicted"], "partly"),
    ],
)
def test_states_of_parts_add_up(states, state):
    assert overall(states) == state


def test_within_a_tolerance_is_two_sided():
    assert judge([{"": within(0.05 * k, 0.0, 0.5)} for k in (-1, 0, 1)], "book").state == "reproduced"
    assert judge([{"": within(3 + 0.1 * k, 0.0, 0.5)} for k in range(3)], "book").state == "contradicted"
    assert judge([{"": within(2.0 * k, 0.0, 0.5)} for k in (-1, 0, 1)], "book").state == "undecided"


@given(st.lists(st.floats(-20, 20), min_size=3, max_size=6, unique=True), st.floats(0.01, 10))
def test_the_effect_of_a_tolerance_never_exceeds_it(values, tolerance):
    found = effect_interval([within(v, 0.0, tolerance) for v in values])
    assert found.low <= found.mean <= tolerance + 1e-9 and found.high <= tolerance + 1e-9


def test_an_identity_needs_one_run_and_every_run():
    assert judge(runs([1e-3]), "book", identity=True).state == "identity"
    assert judge(runs([1e-3, -1e-3]), "book", identity=True).state == "contradicted"


def test_the_headline_is_nearest_the_paper_with_three_seeds():
    short, long = judge(runs([1, 1.1]), "paper"), judge(runs([1, 1.1, 1.2]), "book")
    assert headline({"paper": short, "book": long}) is long
    assert headline({"paper": short}) is short and headline({}) is None


def test_runs_with_other_parts_are_refused():
    with pytest.raises(DataFreeError, match="other parts"):
        judge([{"a": above(1.0)}, {"b": above(1.0)}], "book")


@given(st.lists(st.booleans(), min_size=1, max_size=100))
def test_packed_images_come_back(right):
    assert unpack(pack(right)).tolist() == right


@pytest.mark.parametrize("text", ["", "8", "8:!!", "80:" + pack([True] * 8).partition(":")[2]])
def test_damaged_images_are_refused(text):
    with pytest.raises(DataFreeError, match="damaged"):
        unpack(text)


def test_numbers_carry_their_images_through_arithmetic():
    rng = np.random.default_rng(1)
    x, y = (accuracy(rng.random(500) < p) for p in (0.6, 0.9))
    for z in (x + y, x - y, x * y, x / y, 3 - x, mean([x, y]), abs(x - y), below(x, y).distance):
        assert z.images.mean() == pytest.approx(z.value)
    assert (x / y).value == pytest.approx(x.value / y.value)
    with pytest.raises(DataFreeError, match="paired"):
        x - accuracy(np.ones(3, bool))
