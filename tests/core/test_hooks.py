"""hooks: what they see, that they leave nothing behind, and that no other file registers any."""

import re

import pytest
import torch
from conftest import Tiny, seeded, with_statistics
from torch import nn

from datafree import DataFreeError
from datafree.core.hooks import (
    evaluating,
    feature_hooks,
    frozen,
    input_hooks,
    masked_gradients,
    output_hooks,
    stages,
    uses_of,
)
from datafree.files import ROOT
from datafree.networks.weights import load_network
from datafree.networks.zoo import build_network


@pytest.fixture(scope="module")
def net():
    return load_network("resnet20")


@pytest.fixture
def small():
    torch.manual_seed(0)
    return with_statistics(Tiny(), side=8)


def test_stages_are_the_ends_of_the_residual_stages(net):
    assert stages(net) == ("layer1.2", "layer2.2", "layer3.2")


@pytest.mark.parametrize("name", ["slim_vgg", "mobilenet_v2_small", "resnet44"])
def test_stages_fall_in_resolution(name):
    model = build_network(name)
    with feature_hooks(model, stages(model)) as seen, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    sides = [f.shape[-1] for f in seen]
    assert len(sides) >= 3 and sides == sorted(sides, reverse=True) and len(set(sides)) == len(sides)


def test_feature_hooks_give_the_outputs_of_their_modules_and_leave_no_hook(net):
    x = torch.rand(2, 3, 32, 32, generator=seeded())
    with feature_hooks(net, ("linear", "layer1")) as seen, torch.no_grad():
        out = net.eval()(x)
    assert torch.equal(seen[0], out) and seen[1].shape == (2, 16, 32, 32)
    assert not net.linear._forward_hooks and not net.layer1._forward_hooks


def test_a_module_that_does_not_exist_is_named_and_no_hook_is_left(net):
    with pytest.raises(DataFreeError, match="no module 'layer9'.*layer1"), feature_hooks(net, ("layer1", "layer9")):
        pass
    assert not net.layer1._forward_hooks


def test_input_and_output_hooks_see_what_goes_in_and_out_without_changing_it(small):
    x, came, went = torch.rand(2, 3, 8, 8, generator=seeded()), {}, {}

    def note(name, value):
        came[name] = value
        return value + 1  # a hook that passed this on would change the network

    def keep(name, received, made):
        went[name] = received, made
        return made + 1

    with input_hooks(small, ["conv", "linear"], note), output_hooks(small, ["bn", "linear"], keep), torch.no_grad():
        y = small(x)
    assert torch.equal(y, small(x))
    assert torch.equal(came["conv"], small.normalize(x)) and torch.equal(came["linear"], went["linear"][0])
    assert torch.equal(went["bn"][0], small.conv(came["conv"])) and torch.equal(went["linear"][1], y)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.modules())


def test_hooks_go_even_where_the_block_fails(small):
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        feature_hooks(small, ["conv"]),
        input_hooks(small, ["bn"], print),
    ):
        raise RuntimeError("on purpose")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.modules())


def test_a_name_asked_for_twice_is_seen_twice(small):
    with feature_hooks(small, ["conv", "bn", "conv"]) as seen:
        small(torch.rand(1, 3, 8, 8))
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])


def test_uses_come_in_the_order_they_run_each_with_its_shapes():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(6, 2), nn.Conv2d(3, 3, 3, stride=2)

        def forward(self, x):
            return self.last(self.first(self.first(x)).mean((2, 3)).repeat(1, 2))

    model = Twice().train()
    uses = uses_of(model, ["last", "first"], (3, 16, 16))
    assert [use.name for use in uses] == ["first", "first", "last"]
    assert uses[0].received == (1, 3, 16, 16) and uses[0].made == uses[1].received == (1, 3, 7, 7)
    assert uses[2].received == (1, 6) and uses[2].made == (1, 2)
    assert model.training and model.first.training


def test_masked_gradients_are_zero_where_the_mask_is(small):
    mask, x = torch.rand(small.conv.weight.shape, generator=seeded()) < 0.5, torch.rand(2, 3, 8, 8)
    (plain,) = torch.autograd.grad(small(x).square().sum(), small.conv.weight)
    with masked_gradients([(small.conv.weight, mask)]):
        (found,) = torch.autograd.grad(small(x).square().sum(), small.conv.weight)
    (after,) = torch.autograd.grad(small(x).square().sum(), small.conv.weight)
    torch.testing.assert_close(found, plain * mask)
    torch.testing.assert_close(after, plain)


@pytest.mark.parametrize("way", [evaluating, frozen])
def test_modes_and_flags_are_put_back(small, way):
    small.train()
    small.bn.eval()
    small.linear.weight.requires_grad_(False)
    modes, flags = [m.training for m in small.modules()], [p.requires_grad for p in small.parameters()]
    with pytest.raises(RuntimeError, match="on purpose"), way(small):
        assert not any(m.training for m in small.modules())
        assert any(p.requires_grad for p in small.parameters()) == (way is evaluating)
        raise RuntimeError("on purpose")
    assert modes == [m.training for m in small.modules()] and flags == [p.requires_grad for p in small.parameters()]


def test_gradients_reach_the_input_of_a_frozen_network(small):
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    with frozen(small):
        small(x).square().sum().backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is None for p in small.parameters())


def test_no_other_file_registers_a_hook():
    library = ROOT / "lib" / "datafree"
    found = [
        p.relative_to(library).as_posix()
        for p in library.rglob("*.py")
        if re.search(r"register_\w*hook", p.read_text())
    ]
    assert found == ["core/hooks.py"]
