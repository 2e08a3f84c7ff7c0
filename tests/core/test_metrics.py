"""Accuracy, agreement, mean IoU and costs against numbers counted by hand, and by other packages."""

import pytest
import torch
from conftest import named_pixels
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from torch import nn

from datafree.core import quantized
from datafree.core.flops import count_macs, count_parameters, weight_bytes
from datafree.core.metrics import (
    agreement,
    class_accuracy,
    class_iou,
    confusion,
    confusions_of,
    iou_by_image,
    mean_iou,
    outputs,
    top1,
    top5,
    topk,
)
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


def test_a_case_by_hand():
    labels, predicted = torch.tensor([[0, 0, 0], [1, 1, -1]]), torch.tensor([[0, 0, 1], [1, 0, 2]])
    table = confusion(predicted, labels, 4)
    assert table[:2, :2].tolist() == [[2, 1], [1, 1]] and table.sum() == 5
    iou = class_iou(table)
    assert iou[:2].tolist() == pytest.approx([50.0, 100 / 3]) and iou[2:].isnan().all()


class Oracle(nn.Module):
    """Gives each pixel the class that its first channel names; the side of the output may be cut."""

    def __init__(self, classes, cut=0):
        super().__init__()
        self.classes, self.cut = classes, cut

    def forward(self, x):
        values = (x[:, 0] * 255).round().long()[:, self.cut :]
        return nn.functional.one_hot(values, self.classes).permute(0, 3, 1, 2).float()


labelled = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(low, 4), min_size=n, max_size=n) for low in (-1, 0)])
)


@given(labelled)
def test_against_sets_of_pixels(pair):
    labels, predicted = map(torch.tensor, pair)
    iou = class_iou(confusion(predicted, labels, 5))
    known = [i for i in range(len(labels)) if labels[i] >= 0]
    for k in range(5):
        a, b = ({i for i in known if values[i] == k} for values in (labels, predicted))
        assert iou[k].isnan() if not a | b else iou[k].item() == pytest.approx(100 * len(a & b) / len(a | b))


def test_a_perfect_network_has_all_and_batches_do_not_matter():
    images = named_pixels()
    assert mean_iou(Oracle(5), images, batch=3) == 100
    wrong = ImageSet(images.pixels, images.labels.roll(1, 0), images.classes, "wrong")
    assert mean_iou(Oracle(6), wrong, batch=2) == pytest.approx(mean_iou(Oracle(5), wrong))


def test_what_images_add_has_the_mean_iou_as_its_mean():
    images = named_pixels()
    wrong = ImageSet(images.pixels, images.labels.roll(1, 0), images.classes, "wrong")
    tables = confusions_of(Oracle(6), wrong, batch=2)
    assert tables.shape == (len(wrong), 6, 6)
    assert iou_by_image(tables).mean().item() == pytest.approx(mean_iou(Oracle(6), wrong))


def test_what_an_image_adds_is_what_a_second_copy_of_it_changes():
    generator = torch.Generator().manual_seed(0)
    tables = torch.randint(0, 20, (400, 3, 3), generator=generator)
    tables = tables + 30 * torch.eye(3).long() * torch.randint(0, 2, (400, 1, 1), generator=generator)
    added = iou_by_image(tables)
    total = class_iou(tables.sum(0)).mean()
    for n in range(3):
        change = class_iou(tables.sum(0) + tables[n]).mean() - total
        assert change.item() == pytest.approx((added[n] - total).item() / 400, rel=0.02)


@pytest.mark.parametrize("oracle", [Oracle(4), Oracle(5, cut=1)])
def test_outputs_that_do_not_fit_are_refused(oracle):
    images = named_pixels()
    images = ImageSet(images.pixels.clamp(max=3), images.labels, images.classes, "named")
    with pytest.raises(DataFreeError, match="does not fit the labels of 'named': 5 classes"):
        mean_iou(oracle, images)


def test_the_two_kinds_of_labels_are_kept_apart():
    with pytest.raises(DataFreeError, match="one label an image; mean IoU needs one for every pixel"):
        mean_iou(Oracle(5), load_images("digits-stub", "test")[:2])
    with pytest.raises(DataFreeError, match="labels pixels; use metrics.mean_iou"):
        top1(Oracle(5), named_pixels())


# Against packages of others


@pytest.mark.parametrize("k", [1, 5])
def test_accuracy_is_that_of_torchmetrics(k, others_metrics):
    generator = torch.Generator().manual_seed(k)
    logits, labels = torch.rand(200, 6, generator=generator), torch.randint(0, 6, (200,), generator=generator)
    expected = others_metrics.multiclass_accuracy(logits, labels, num_classes=6, top_k=k, average="micro")
    assert topk(Table(), table(labels.tolist(), logits), k) == pytest.approx(100 * expected.item(), abs=1e-4)


def test_the_confusion_matrix_and_its_iou_are_those_of_others(others_metrics):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 5, (3, 20, 20), generator=generator)
    predicted = torch.where(torch.rand(labels.shape, generator=generator) < 0.5, labels.clamp(min=0), 2)
    seen = labels >= 0
    counted = confusion(predicted, labels, 5)
    assert counted.tolist() == confusion_matrix(labels[seen], predicted[seen], labels=range(5)).tolist()
    expected = others_metrics.multiclass_jaccard_index(
        predicted, labels, num_classes=5, ignore_index=-1, average="none"
    )
    torch.testing.assert_close(class_iou(counted).float(), 100 * expected)
