"""Layer-Wise Data-Free CNN Compression, section III-D: soft thresholds, layer losses, budgets, whole networks."""

import copy

import pytest
import torch
from conftest import with_statistics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import datafree
from datafree.core import pruning
from datafree.core.graph import trace
from datafree.data.images import ImageSet
from datafree.errors import DataFreeError
from datafree.networks.weights import load_network
from datafree.papers.layerwise import generated_inputs
from datafree.papers.layerwise import pruning as layerwise_pruning


def small(act=nn.ReLU):
    """Convolution, depthwise convolution, convolution, pooling, linear layer; all but the last with BatchNorm."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), act(), nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8), act(), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    )  # fmt: skip
    return with_statistics(net, side=8)


def config(**changes):
    return layerwise_pruning.LayerWisePruning(**{"steps": 20, "batch": 8, "size": 4, "rate": 0.01} | changes)


def parts(settings, net=None, start=-2.0, names=None):
    """Teacher, student, its losses, and the wiring."""
    net = net or small()
    wires = trace(net)
    teacher, moments = layerwise_pruning.equalized(net, wires, settings)
    student = layerwise_pruning.with_thresholds(teacher, wires, start, settings.grown)
    return teacher, student, layerwise_pruning.layer_losses(teacher, student, wires, moments, settings, names), wires


@settings(max_examples=40, deadline=None)
@given(st.floats(-8, 8), st.integers(0, 1000))
def test_soft_threshold_zeroes_exactly_what_is_at_most_the_threshold(s, seed):
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
    threshold = torch.sigmoid(torch.tensor(s))
    weight[0, 0], weight[0, 1] = threshold, -threshold
    pruned = layerwise_pruning.soft_threshold(weight, torch.tensor(s))
    assert torch.equal(pruned == 0, weight.abs() <= threshold)
    kept = pruned != 0
    torch.testing.assert_close((weight - pruned)[kept], weight.sign()[kept] * threshold)


def test_sparsity_rises_with_s():
    weight = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    shares = [
        pruning.sparsity([layerwise_pruning.soft_threshold(weight, torch.tensor(s))])
        for s in torch.linspace(-9, 9, 40).tolist()
    ]
    assert all(a <= b for a, b in zip(shares, shares[1:])) and shares[0] < 0.01 and shares[-1] > 0.5


def test_gradients_agree_with_finite_differences():
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=g, dtype=torch.float64).requires_grad_()
    s = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    x, target = torch.randn(7, 3, generator=g).double(), torch.randn(4, 3, generator=g).double()

    def loss(weight, s):
        return layerwise_pruning.layer_loss(x @ layerwise_pruning.soft_threshold(weight, s).T, x @ target.T)

    assert torch.autograd.gradcheck(loss, (weight, s))


@pytest.mark.parametrize("inputs", ["drawn", "expected"])
def test_decay_raises_s_where_nothing_holds_it(inputs):
    """At s = -20 no weight is touched, so the loss has no gradient and the decay alone moves s, up from below zero."""
    plan = config(inputs=inputs, decay=1e-2)
    _, student, losses, _ = parts(plan, start=-20.0)
    layerwise_pruning.train(student, losses, plan)
    values = [m.s.item() for m in student.modules() if isinstance(m, layerwise_pruning.ThresholdedLayer)]
    assert all(v > -20 for v in values)
    free = config(inputs=inputs, decay=0.0)
    _, student, losses, _ = parts(free, start=-20.0)
    layerwise_pruning.train(student, losses, free)
    moved = [m.s.item() for m in student.modules() if isinstance(m, layerwise_pruning.ThresholdedLayer)]
    assert all(a > b for a, b in zip(values, moved))


def test_decay_outside_of_adam_is_slower():
    ends = {}
    for form in ("coupled", "decoupled"):
        plan = config(decay_form=form, inputs="expected")
        _, student, losses, _ = parts(plan, start=-20.0)
        layerwise_pruning.train(student, losses, plan)
        ends[form] = student.get_submodule("0").s.item()
    assert ends["coupled"] > ends["decoupled"] > -20.001


def test_threshold_decay_is_the_gradient_of_weight_decay():
    _, student, _, _ = parts(config(), start=-3.0)
    layerwise_pruning.threshold_decay(student, 0.1).backward()
    torch.testing.assert_close(student.get_submodule("0").s.grad, torch.tensor(-0.3))


@pytest.mark.parametrize("decay_weights", [False, True])
def test_decay_of_the_weights_is_an_option(decay_weights):
    plan = config(decay=10.0, decay_weights=decay_weights, inputs="expected", sparsity=0.1)
    teacher, student, losses, _ = parts(plan, start=-20.0)
    layerwise_pruning.train(student, losses, plan)
    norm = [layerwise_pruning.inner_layer(net, "0").inner.weight.norm() if net is student else layerwise_pruning.inner_layer(net, "0").weight.norm() for net in (teacher, student)]  # fmt: skip
    assert (norm[1] < 0.97 * norm[0]) == decay_weights


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
def test_expected_loss_is_the_mean_of_the_drawn_one(act):
    """Away from borders: 4,000 inputs as large as the kernel, and only the middle of the output."""
    plan = config(batch=4000, size=3, activation=act is nn.ReLU)
    net = small(act)
    teacher, student, drawn, wires = parts(plan, net)
    _, moments = layerwise_pruning.equalized(net, wires, plan)
    exact = layerwise_pruning.layer_losses(
        teacher, student, wires, moments, plan.model_copy(update={"inputs": "expected"})
    )
    for name, draw in drawn.items():
        x = generated_inputs.layer_input(wires, name, moments, (4000, 3, 3), draw.generator, activation=plan.activation)
        got, wanted = draw.student(x), draw.teacher(x)
        if got.ndim == 4 and layerwise_pruning.inner_layer(teacher, name).padding == (1, 1):
            got, wanted = got[..., 1:2, 1:2], wanted[..., 1:2, 1:2]
        torch.testing.assert_close(layerwise_pruning.layer_loss(got, wanted), exact[name](), rtol=0.1, atol=1e-4)


@pytest.mark.parametrize("inputs", ["drawn", "expected"])
@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
def test_a_student_that_prunes_nothing_has_no_loss_and_the_same_outputs(inputs, act):
    net = small(act)
    teacher, student, losses, wires = parts(config(inputs=inputs), net, start=-60.0)
    assert max(draw().item() for draw in losses.values()) < 1e-10
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(student(x), net(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layerwise_pruning.without_thresholds(student, wires)(x), student(x))


@pytest.mark.parametrize("inputs", ["drawn", "expected"])
def test_layers_do_not_depend_on_order_or_on_each_other(inputs):
    plan = config(inputs=inputs)
    results = []
    for names in (["0", "3", "6", "11"], ["11", "6", "3", "0"], ["6"]):
        _, student, losses, wires = parts(plan, names=names)
        layerwise_pruning.train(student, losses, plan)
        results.append(layerwise_pruning.weights_of(student, wires))
    for name in ("0", "3", "6", "11"):
        torch.testing.assert_close(results[0][name], results[1][name], rtol=0, atol=1e-7)
    torch.testing.assert_close(results[0]["6"], results[2]["6"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("inputs", ["drawn", "expected"])
def test_teacher_biases_and_model_are_not_altered(inputs):
    net = small()
    before = copy.deepcopy(net.state_dict())
    plan = config(inputs=inputs)
    teacher, student, losses, _ = parts(plan, net)
    kept = copy.deepcopy(teacher.state_dict())
    layerwise_pruning.train(student, losses, plan)
    for state, now in ((before, net.state_dict()), (kept, teacher.state_dict())):
        assert all(torch.equal(state[key], now[key]) for key in state)
    for name in losses:
        assert torch.equal(
            layerwise_pruning.inner_layer(student, name).inner.bias, layerwise_pruning.inner_layer(teacher, name).bias
        )


def test_training_lowers_the_loss_of_every_layer():
    plan = config(inputs="expected", steps=150, grown=False)
    _, student, losses, _ = parts(plan)
    history = layerwise_pruning.train(student, losses, plan)
    assert all(values[-1] < 0.8 * values[0] for values in history.values())
    assert all(len(values) == 150 for values in history.values())


@pytest.mark.parametrize("grown", [True, False])
def test_a_student_starts_masked_or_shrunk(grown):
    _, teacher, _, wires = parts(config(), start=-60.0)
    student = layerwise_pruning.with_thresholds(
        layerwise_pruning.equalized(small(), wires, config())[0], wires, -2.0, grown
    )
    threshold = torch.sigmoid(torch.tensor(-2.0))
    for name, whole in layerwise_pruning.weights_of(teacher, wires).items():
        found = layerwise_pruning.weights_of(student, wires)[name]
        kept = whole.abs() > threshold
        assert torch.equal(found != 0, kept)
        wanted = whole if grown else whole - whole.sign() * threshold
        torch.testing.assert_close(found[kept], wanted[kept], rtol=1e-4, atol=1e-5)


def test_watch_sees_every_step():
    seen, plan = [], config(steps=5, inputs="expected")
    _, student, losses, _ = parts(plan)
    layerwise_pruning.train(student, losses, plan, seen.append)
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_erk_meets_the_target_within_bounds(sparsity, literal):
    weights = layerwise_pruning.weights_of(
        load_network("mobilenet_v2_small"), trace(load_network("mobilenet_v2_small"))
    )
    found = layerwise_pruning.erk_densities(weights, sparsity, literal)
    assert all(-1e-12 <= d <= 1 for d in found.values())
    kept = sum(found[name] * w.numel() for name, w in weights.items())
    assert kept == pytest.approx((1 - sparsity) * sum(w.numel() for w in weights.values()), abs=1e-6)


def test_erk_keeps_small_layers_and_the_literal_reading_prunes_them():
    weights = {"wide": torch.zeros(64, 64, 3, 3), "narrow": torch.zeros(8, 8, 1, 1)}
    sensible, literal = (
        layerwise_pruning.erk_densities(weights, 0.5),
        layerwise_pruning.erk_densities(weights, 0.5, literal=True),
    )
    assert sensible["narrow"] == 1 and sensible["wide"] < 0.5 and literal["narrow"] == 0 and literal["wide"] > 0.5
    assert layerwise_pruning.erk_quotient((64, 32, 3, 3)) == pytest.approx(102 / (64 * 32 * 9))


def test_start_is_where_that_share_lies_below_the_threshold():
    weights = {"a": torch.linspace(0.01, 0.5, 60), "b": -torch.linspace(0.02, 0.9, 140)}
    start = torch.tensor(layerwise_pruning.start_for(weights, 0.4))
    assert pruning.sparsity([layerwise_pruning.soft_threshold(w, start) for w in weights.values()]) == pytest.approx(
        0.4, abs=0.006
    )
    assert layerwise_pruning.start_for(weights, 0.6) > start


@pytest.mark.parametrize("weight", [torch.zeros(10), torch.full((10,), 3.0)])
def test_start_refuses_thresholds_that_no_s_gives(weight):
    with pytest.raises(DataFreeError, match="between 0 and 1"):
        layerwise_pruning.start_for({"a": weight}, 0.5)


@pytest.mark.parametrize("inputs", ["drawn", "expected"])
@pytest.mark.parametrize("source", ["batchnorm", "standard"])
@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU])
def test_compress_prunes_and_reports(inputs, source, act):
    result = datafree.compress(small(act), config(inputs=inputs, source=source, sparsity=0.4), shape=(3, 8, 8))
    weights = [m.weight for m in result.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert pruning.sparsity(weights) == pytest.approx(result.report["sparsity"])
    assert 0.2 < result.report["sparsity"] < 0.6 and set(result.report["layers"]) == {"0", "3", "6", "11"}
    assert all(
        type(m) in (nn.Conv2d, nn.Linear) for m in result.model.modules() if hasattr(m, "weight") and m.weight.ndim > 1
    )
    assert result.report["parameters"] == sum(p.numel() for p in result.model.parameters())


def test_an_explicit_start_is_used():
    report = datafree.compress(small(), config(start=-1.0, inputs="expected"), shape=(3, 8, 8)).report
    assert report["start"] == -1.0


def test_wrong_inputs_are_named():
    pool = ImageSet(torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.long), ("a",), "mine")
    with pytest.raises(DataFreeError, match="uses no images"):
        datafree.compress(small(), config(), pool, shape=(3, 8, 8))
    with pytest.raises(DataFreeError, match="no convolution or linear layer 'nowhere'"):
        parts(config(), names=["nowhere"])
    broken = small()
    broken[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(DataFreeError, match="NaN"):
        layerwise_pruning.compress(broken, config())
    for bad in ({"sparsity": 1.0}, {"rate": float("nan")}, {"inputs": "some"}, {"steps": 0}):
        with pytest.raises(ValueError):
            config(**bad)


def test_nan_in_training_stops_with_a_sentence():
    plan = config(inputs="expected")
    _, student, losses, _ = parts(plan)
    losses["0"] = lambda: student.get_submodule("0").s * float("nan")
    with pytest.raises(DataFreeError, match="layer-wise pruning diverged at step 0"):
        layerwise_pruning.train(student, losses, plan)


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("changes", [{}, {"decay_weights": True, "decay": 0.01}, {"decay_form": "decoupled"}])
def test_all_layers_in_one_vector_train_as_each_by_autograd(act, changes):
    """Depthwise and linear layers, with buffers (ReLU6) and without."""
    plan, ends = config(inputs="expected", **changes), []
    for fast in (False, True):
        _, student, losses, wires = parts(plan, small(act), start=-3.0)
        history = layerwise_pruning.train(student, losses, plan, fast=fast)
        thresholds = [layerwise_pruning.inner_layer(student, name).s.detach() for name in losses]
        ends.append([*layerwise_pruning.weights_of(student, wires).values(), *thresholds, *history.values()])
    for plain, together in zip(*ends, strict=True):
        torch.testing.assert_close(together, plain, rtol=1e-3, atol=1e-5)


def test_watchers_see_weights_move_under_the_fast_training():
    plan, seen = config(inputs="expected", steps=3), []
    _, student, losses, _ = parts(plan)
    layer = layerwise_pruning.inner_layer(student, "0")
    layerwise_pruning.train(student, losses, plan, lambda _: seen.append(layer.weight.detach().sum().item()))
    assert len(set(seen)) == 3


def test_drawn_inputs_are_no_smaller_than_a_kernel():
    """Networks that pad by a module of its own have kernels larger than the input that is asked for."""
    net = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)), side=8)
    report = layerwise_pruning.compress(net, config(size=2, steps=2))[1]
    assert set(report["layers"]) == {"0", "3"}
