"""Accuracy, agreement and costs against numbers counted by hand."""

import pytest
import torch
from torch import nn

from datafree.core import quantized
from datafree.core.flops import count_macs, count_parameters, weight_bytes
from datafree.core.metrics import agreement, class_accuracy, outputs, top1, top5, topk
from datafree.data.images import ImageSet, generated
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks.weights import load_network, state_hash
from datafree.networks.zoo import build_network


class Table(nn.Module):
    """Reads the logits of an image from its first pixels."""

    def forward(self, x):
        return x[:, 0, 0, :6]


LOGITS = torch.tensor([[0.9, 0.5, 0.1, 0.2, 0.3, 0.0], [0.1, 0.8, 0.7, 0.6, 0.5, 0.4], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])


def table(labels, logits=LOGITS):
    pixels = logits.view(-1, 1, 1, 6).expand(-1, 3, 6, 6).contiguous()
    return ImageSet(pixels, torch.tensor(labels), list("abcdef"), "table")


@pytest.mark.parametrize(
    ("labels", "k", "hits"),
    [([0, 1, 0], 1, 3), ([0, 2, 5], 1, 1), ([1, 2, 5], 2, 2), ([5, 0, 5], 5, 0), ([5, 0, 5], 6, 3)],
)
def test_top_k_is_a_hand_count(labels, k, hits):
    for batch in (1, 2, 500):
        assert topk(Table(), table(labels), k, batch) == pytest.approx(100 * hits / 3)


def test_top5_is_never_below_top1_and_certain_where_there_are_five_classes():
    images = table([3, 4, 5])
    assert top5(Table(), images) >= top1(Table(), images)
    few = nn.Sequential(Table(), nn.Linear(6, 3))
    assert top5(few, table([0, 1, 2])) == 100


def test_agreement_needs_no_labels():
    images = table([-1, -1, -1])
    assert agreement(Table(), Table(), images) == 100
    swapped = nn.Sequential(Table(), nn.Linear(6, 6, bias=False))
    swapped[1].weight.data = torch.eye(6)[[1, 0, 2, 3, 4, 5]]  # classes 0 and 1 change places
    assert agreement(swapped, Table(), images) == 0
    swapped[1].weight.data = torch.eye(6)[[0, 1, 5, 4, 3, 2]]
    assert agreement(swapped, Table(), images) == 100


def test_accuracy_without_labels_is_refused():
    with pytest.raises(DataFreeError, match="images without labels; accuracy needs labels, agreement does not"):
        top1(Table(), table([0, -1, 2]))


def test_labels_beyond_the_outputs_are_refused():
    with pytest.raises(DataFreeError, match="'table' has 7 classes, the network 6"):
        top1(Table(), table([0, 1, 6]))


def test_every_module_keeps_its_mode(tiny):
    model = tiny().train()
    model.bn.eval()
    before = {n: m.training for n, m in model.named_modules()}
    state = state_hash(model)
    outputs(model, generated(torch.rand(3, 3, 8, 8), "noise"))
    count_macs(model, (3, 8, 8))
    with pytest.raises(RuntimeError):
        outputs(model, generated(torch.rand(3, 1, 1, 8, 8), "broken"))
    assert {n: m.training for n, m in model.named_modules()} == before
    assert state_hash(model) == state


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 8, 8), 8 * 64 * 27),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 8, 8), 8 * 16 * 27),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 4, 4), 8 * 16 * 9),
        (nn.Conv2d(8, 12, (1, 3), groups=4), (8, 4, 4), 12 * 4 * 2 * 2 * 3),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2), 60),
        (nn.ReLU(), (3, 2, 2), 0),
    ],
)
def test_multiplications_are_counted_as_by_hand(layer, shape, macs):
    assert count_macs(layer, shape) == macs


def test_resnet20_has_the_count_everybody_finds():
    assert count_macs(build_network("resnet20")) / 1e6 == pytest.approx(40.55, abs=0.01)


def calibrated(model, **bits):
    student = quantized.prepare(model, **bits)
    with quantized.observing(student), torch.no_grad():
        student(torch.rand(4, 3, 8, 8))
    return student


def test_a_quantised_network_does_the_same_multiplications(tiny):
    model = tiny()
    student = calibrated(model, weight_bits=4, act_bits=4)
    expected = 4 * 64 * 27 + 40
    assert count_macs(model, (3, 8, 8)) == count_macs(student, (3, 8, 8)) == expected
    with quantized.observing(student):
        assert count_macs(student, (3, 8, 8)) == expected


def test_bytes_count_weights_at_their_width_and_all_else_at_32_bits(tiny):
    model = tiny()  # 108 + 40 weights; 8 values of BatchNorm and 10 biases
    assert count_parameters(model) == 166
    assert weight_bytes(model) == 166 * 4
    assert weight_bytes(calibrated(model, weight_bits=4, act_bits=8)) == 148 / 2 + 18 * 4
    assert weight_bytes(calibrated(model, weight_bits=2, act_bits=8, edge_bits=8)) == 148 + 18 * 4


def test_hooks_are_gone_after_counting(tiny):
    model = tiny()
    count_macs(model, (3, 8, 8))
    assert not any(m._forward_hooks for m in model.modules())


def test_accuracy_of_classes_averages_to_top1_on_balanced_images():
    net, images = load_network("resnet20"), load_images("cifar10-stub", "test").per_class(10)
    by_class = class_accuracy(net, images)
    assert len(by_class) == 10 and by_class.mean().item() == pytest.approx(top1(net, images))


def test_a_class_without_images_has_no_accuracy():
    net, images = load_network("resnet20"), load_images("cifar10-stub", "test").per_class(2)
    by_class = class_accuracy(net, images[images.labels != 3])
    assert by_class[3].isnan() and by_class.isnan().sum() == 1
