"""Quantised networks: prepare, calibrate, convert, and the mean that bias correction gives back."""

import copy

import pytest
import torch
from conftest import Tiny, seeded, uneven_network, with_statistics
from torch import nn

from datafree.core import observers, quantized, quantizer
from datafree.core.graph import fold_all, trace
from datafree.data.images import generated
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks.blocks import Normalize
from datafree.networks.weights import load_network, state_hash
from datafree.papers.knowledge_within import calibration
from datafree.papers.layerwise import equalization


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        Normalize(), nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


def images(count=64):
    return torch.rand(count, 3, 9, 7, generator=seeded())


def measured(weight_bits, act_bits, **options):
    net = network()
    return net, quantized.calibrate(quantized.prepare(net, weight_bits, act_bits, **options), [images()])


def layers(student):
    return [layer for _, layer in quantized.quantized_layers(student)]


class TestPrepare:
    def test_many_bits_change_little_and_fewer_bits_change_more(self):
        for zero_on_grid in (True, False):
            errors = []
            for bits in (16, 8, 4, 2):
                net, student = measured(bits, bits, zero_on_grid=zero_on_grid)
                errors.append((student(images()) - net(images())).square().mean().item())
            assert errors[0] < 1e-5 and errors == sorted(errors)

    def test_edges_keep_their_own_width(self):
        _, student = measured(2, 4, edge_bits=8)
        assert [(m.weight_bits, m.act_bits) for m in layers(student)] == [(8, 8), (2, 4), (8, 8)]
        quantized.set_bits(student, 3, 5)
        assert {(m.weight_bits, m.act_bits) for m in layers(student)} == {(3, 5)}

    def test_other_widths_keep_the_measured_ranges(self):
        _, student = measured(8, 8)
        _, narrow = measured(3, 3)
        torch.testing.assert_close(quantized.set_bits(student, 3, 3)(images()), narrow(images()))

    def test_only_the_named_layers(self):
        student = quantized.prepare(network(), 4, 4, names=["3"])
        assert [name for name, _ in quantized.quantized_layers(student)] == ["3"]

    def test_gradient_reaches_the_master_weights(self):
        for zero_on_grid in (True, False):
            _, student = measured(2, 4, zero_on_grid=zero_on_grid)
            student(images(4)).square().sum().backward()
            assert all(layer.core.weight.grad.abs().sum() > 0 for layer in layers(student))

    def test_weights_get_the_gradient_of_the_rounded_weight(self):
        net = nn.Sequential(nn.Linear(3, 2, bias=False))
        student = quantized.prepare(net, 8, 16, per_channel=False, zero_on_grid=False)
        x = noise(10, 3)
        quantized.calibrate(student, [x])(x).square().sum().backward()
        wanted = 2 * (x @ net[0].weight.T).T @ x
        torch.testing.assert_close(student[0].core.weight.grad, wanted, rtol=0.05, atol=0.3)

    def test_the_original_stays(self):
        net = network()
        before = state_hash(net)
        quantized.prepare(net, 2, 2)
        assert state_hash(net) == before and not quantized.quantized_layers(net)

    @pytest.mark.parametrize("bits", [{"weight_bits": 1, "act_bits": 4}, {"weight_bits": 4, "act_bits": 17}])
    def test_bits_out_of_range(self, bits):
        with pytest.raises(DataFreeError, match="must lie between"):
            quantized.prepare(network(), **bits)
        with pytest.raises(DataFreeError, match="edge_bits is 1"):
            quantized.prepare(network(), 4, 4, edge_bits=1)

    def test_uncalibrated_network_says_so(self):
        with pytest.raises(DataFreeError, match="before its input range was measured"):
            quantized.prepare(network(), 4, 4)(torch.rand(1, 3, 8, 8))

    def test_nothing_to_quantize(self):
        with pytest.raises(DataFreeError, match="no convolution or linear layer"):
            quantized.prepare(nn.Sequential(nn.ReLU()), 4, 4)

    @pytest.mark.parametrize("zero_on_grid", [True, False])
    def test_frozen_weight_ranges_stay_where_they_were(self, zero_on_grid):
        student = quantized.prepare(nn.Sequential(nn.Conv2d(2, 3, 1)), 4, 4, zero_on_grid=zero_on_grid)
        layer = quantized.freeze_weight_ranges(student)[0]
        low, high = (limit.clone() for limit in layer.weight_limits)
        with torch.no_grad():
            layer.core.weight.mul_(3)
        kept = layer.quantized_weight().detach()
        assert (kept <= high.clamp_min(0) + 0.1 * (high - low)).all()
        layer.weight_limits = None
        assert layer.quantized_weight().abs().max() > 2 * kept.abs().max()


class TestRanges:
    def test_passes_that_measure_are_the_float_network_and_ranges_do_not_depend_on_bits(self):
        net, a = measured(8, 8)
        _, b = measured(2, 2)
        for p, q in zip(layers(a), layers(b), strict=True):
            torch.testing.assert_close((p.low, p.high), (q.low, q.high))
        x = torch.rand(4, 3, 9, 7)
        with quantized.observing(a):
            torch.testing.assert_close(a(x), net(x))

    def test_measuring_starts_anew(self):
        _, student = measured(4, 4)
        grey = torch.full((16, 3, 9, 7), 0.5)
        quantized.calibrate(student, [grey])
        fresh = quantized.calibrate(quantized.prepare(network(), 4, 4), [grey])
        for p, q in zip(layers(student), layers(fresh), strict=True):
            torch.testing.assert_close(p.high, q.high)

    def test_every_layer_has_an_observer_of_its_own_width(self):
        made = []
        student = quantized.prepare(network(), 4, 5, edge_bits=8)
        quantized.calibrate(student, [images()], lambda bits: made.append(bits) or observers.MinMaxObserver(bits))
        assert made == [8, 5, 8] and all(layer.observer is None for layer in layers(student))

    def test_ranges_are_those_of_the_float_inputs(self):
        net = network()
        student = quantized.calibrate(quantized.prepare(net, 2, 2), images().split(10), observers.MinMaxObserver)
        inputs = [net[:i](images()) for i in (1, 3, 7)]
        for layer, x in zip(layers(student), inputs, strict=True):
            torch.testing.assert_close((layer.low, layer.high), (x.min(), x.max()))

    def test_a_range_can_be_set(self):
        _, student = measured(4, 4)
        layer = layers(student)[1]
        layer.set_range(-1.0, torch.tensor(2.0))
        grid = quantizer.affine_grid(torch.tensor(-1.0), torch.tensor(2.0), 4)
        x = 3 * noise(2, 8, 5, 5)
        torch.testing.assert_close(layer.quantize_input(x), quantizer.fake_quantize(x, grid))

    def test_no_images_at_all_are_refused(self):
        with pytest.raises(DataFreeError, match="no image at all"):
            quantized.calibrate(quantized.prepare(network(), 4, 4), [])

    def test_a_range_in_training_starts_at_the_first_batch_and_follows_only_with_gradients(self):
        net, x = nn.Sequential(nn.Linear(3, 2)), noise(10, 3)
        student = quantized.prepare(net, 4, 4, observer=observers.MovingAverageMinMaxObserver)
        with pytest.raises(DataFreeError, match="before its input range was measured"), torch.no_grad():
            student(x)
        student(x)
        layer = student[0]
        assert layer.low == x.min() and layer.high == x.max()
        with torch.no_grad():
            student(3 * x)
        assert layer.high == x.max()
        student(3 * x)
        torch.testing.assert_close(layer.high, x.max() * 1.2)  # a tenth of the way to three times as much


class TestConvert:
    @pytest.mark.parametrize("zero_on_grid", [True, False])
    @pytest.mark.parametrize("per_channel", [True, False])
    def test_converted_equals_prepared_and_the_float_weights_stay(self, zero_on_grid, per_channel):
        _, student = measured(3, 4, zero_on_grid=zero_on_grid, per_channel=per_channel)
        x, before = torch.rand(4, 3, 9, 7), state_hash(student)
        done = quantized.convert(student)
        torch.testing.assert_close(done(x), student(x))
        assert state_hash(student) == before
        for layer in layers(done):
            rows = layer.core.weight if per_channel else [layer.core.weight]
            assert all(len(row.unique()) <= 8 for row in rows)

    def test_in_place(self):
        _, student = measured(3, 4)
        wanted = student(images(4))
        assert quantized.convert(student, inplace=True) is student
        torch.testing.assert_close(student(images(4)), wanted)
        assert all(layer.converted for layer in layers(student))

    def test_held_weight_ranges_hold(self):
        _, student = measured(3, 4)
        quantized.freeze_weight_ranges(student)
        with torch.no_grad():
            for layer in layers(student):
                layer.core.weight.mul_(2)
        torch.testing.assert_close(quantized.convert(student)(images(4)), student(images(4)))

    def test_nothing_is_observed_any_more(self):
        student = quantized.prepare(network(), 4, 4, observer=observers.MovingAverageMinMaxObserver)
        student(images())
        done = quantized.convert(student)
        before = state_hash(done)
        done(3 * images())
        assert state_hash(done) == before
        student(3 * images())
        assert layers(student)[0].high > layers(done)[0].high

    def test_what_needs_the_float_weights_is_refused(self):
        done = quantized.convert(measured(3, 4)[1])
        with pytest.raises(DataFreeError, match="a converted network keeps what it is"):
            quantized.set_bits(done, 4, 4)
        with pytest.raises(DataFreeError, match="a converted network keeps what it is"):
            quantized.calibrate(done, [images()])

    def test_a_network_learns_and_is_converted(self):
        torch.manual_seed(0)
        net = with_statistics(Tiny(), side=8)
        names = [layer.name for layer in trace(net).layers]
        options = dict(per_channel=False, zero_on_grid=False, observer=observers.MovingAverageMinMaxObserver)
        student = quantized.prepare(fold_all(net), 8, 8, names=names, **options)
        x = torch.rand(4, 3, 8, 8)
        wanted, learned = net(x), student(x)
        assert (learned - wanted).norm() < 0.1 * wanted.norm()
        torch.testing.assert_close(quantized.convert(student)(x), learned, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("name", ["{}", "{}.inner"])
    def test_buffers_stay_around_or_inside(self, name):
        net = uneven_network(nn.SiLU, double=False)
        found = equalization.equalize(net).model
        buffered = [n for n, m in found.named_modules() if isinstance(m, equalization.BufferedLayer)]
        assert buffered
        student = quantized.prepare(found, 12, 12, zero_on_grid=False, names=[name.format(n) for n in buffered])
        x = torch.rand(4, 3, 16, 16)
        quantized.calibrate(student, [x], observers.MinMaxObserver)
        with torch.no_grad():
            live, done, wanted = student(x), quantized.convert(student)(x), found(x)
        torch.testing.assert_close(done, live, rtol=1e-4, atol=1e-4)
        assert 0 < (live - wanted).norm() < 0.3 * wanted.norm()
        for n in buffered:
            assert quantized.quantized_layer(student, n).core is student.get_submodule(n).inner.inner

    def test_a_float_layer_is_not_taken_for_a_quantised_one(self):
        with pytest.raises(DataFreeError, match="is not quantised"):
            quantized.quantized_layer(network(), "1")


@pytest.fixture(scope="module")
def case():
    net = load_network("resnet20")
    return net, load_images("cifar10-stub", "train").per_class(5).floats()


class TestBiases:
    def test_correction_on_images_gives_back_the_means(self, case):
        net, x = case
        student = quantized.calibrate(quantized.prepare(net, 3, 4), [x], observers.MinMaxObserver)
        names = [n for n, _ in quantized.quantized_layers(student)]
        wanted = quantized.channel_means(net, names, x)

        def furthest():
            return max((wanted[n] - m).abs().max() for n, m in quantized.channel_means(student, names, x).items())

        off = furthest()
        quantized.correct_biases(student, net, x)
        assert furthest() < 1e-3 < off

    def test_correction_leaves_the_teacher_alone(self, case):
        net, x = case
        before = state_hash(net)
        student = quantized.prepare(net, 4, 4)
        calibration.calibrate(student, generated(x, "x"), calibration.KnowledgeWithin(steps=1))
        quantized.correct_biases(student, net, x[:10])
        assert state_hash(net) == before

    @pytest.mark.parametrize("converted", [False, True])
    def test_an_expected_shift_gives_the_expected_output_back(self, converted):
        torch.manual_seed(0)
        layer, mean = nn.Conv2d(4, 6, 3, groups=2, bias=False), noise(4)
        student = quantized.prepare(nn.Sequential(layer), 3, 16)
        x = mean.view(1, -1, 1, 1) + noise(20_000, 4, 3, 3, seed=1)
        student = quantized.calibrate(student, [x], observers.MinMaxObserver)
        student = quantized.convert(student) if converted else student
        with torch.no_grad():
            before = (student(x) - layer(x)).mean((0, 2, 3)).abs().max()
            quantized.correct_bias(student[0], quantized.expected_shift(student[0], layer.weight, mean))
            after = (student(x) - layer(x)).mean((0, 2, 3)).abs().max()
        assert after < 0.05 * before and student[0].core.bias is not None and layer.bias is None

    def test_both_ways_find_the_same_shift_of_a_constant_input(self):
        torch.manual_seed(0)
        for layer, shape in ((nn.Conv2d(4, 6, 3), (4, 3, 3)), (nn.Linear(8, 3), (8,))):
            c = noise(4)
            x = (c.view(-1, 1, 1).expand(shape) if len(shape) == 3 else c.repeat_interleave(2)).expand(5, *shape)
            teacher = nn.Sequential(layer)
            student = quantized.prepare(teacher, 2, 16)
            student[0].set_range(c.min(), c.max())
            wanted = quantized.channel_means(teacher, ["0"], x)["0"]
            found = quantized.measured_shift(student, "0", wanted, x)
            torch.testing.assert_close(
                quantized.expected_shift(student[0], layer.weight, c), found, rtol=1e-2, atol=1e-3
            )

    def test_response_to_a_constant_is_the_layers_own(self):
        torch.manual_seed(0)
        kinds = (nn.Conv2d(6, 4, 3, groups=2), 5), (nn.Conv2d(4, 4, 3, groups=4), 3), (nn.Conv2d(3, 5, 1), 1)
        for layer, size in kinds:
            c = noise(layer.in_channels)
            expected = layer(c.view(1, -1, 1, 1).expand(1, -1, size, size))[0, :, 0, 0] - layer.bias
            found = quantized.response_to_constant(layer.weight, c, layer)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        linear, c = nn.Linear(8, 3), noise(4)
        expected = linear(c.repeat_interleave(2)) - linear.bias
        found = quantized.response_to_constant(linear.weight, c, linear)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_copy_of_a_prepared_network_learns_on_its_own():
    student = quantized.prepare(network(), 4, 4, observer=observers.MovingAverageMinMaxObserver)
    student(images())
    other = copy.deepcopy(student)
    other(5 * images())
    assert layers(other)[0].high > layers(student)[0].high
    student(images())
    torch.testing.assert_close(layers(student)[0].high, network()[0](images()).max())


class TestSums:
    """Additions whose results are rounded."""

    def student(self, **options):
        return quantized.prepare(load_network("resnet20"), 4, 4, sums=True, **options)

    def test_names_stay_and_each_sum_gets_a_range(self):
        net, student = load_network("resnet20"), self.student()
        sums = [m for m in student.modules() if isinstance(m, quantized.QuantizedSum)]
        assert len(sums) == len(trace(net).sums()) == 9
        assert {n for n, _ in quantized.quantized_layers(student)} == {layer.name for layer in trace(net).layers}
        quantized.calibrate(student, [torch.rand(8, 3, 32, 32, generator=seeded())])
        assert all(0 <= one.low < one.high for one in sums), "behind a ReLU nothing is negative"
        quantized.set_bits(student, 4, 7)
        assert {one.act_bits for one in sums} == {7}

    def test_a_range_behind_the_sum_makes_rounding_its_input_again_change_nothing(self):
        """The layer behind an addition has the same range, so that only the skip path sees a difference."""
        student = quantized.calibrate(self.student(), [torch.rand(8, 3, 32, 32, generator=seeded())])
        one, layer = student.get_submodule("sums.0"), student.get_submodule("layer1.1.conv1")
        torch.testing.assert_close(one.low, layer.low)
        torch.testing.assert_close(one.high, layer.high)

    def test_gradients_pass_and_observers_follow(self):
        student = self.student(observer=observers.MovingAverageMinMaxObserver)
        student(torch.rand(4, 3, 32, 32, generator=seeded())).square().mean().backward()
        weight = student.get_submodule("layer1.0.conv1").core.weight
        assert weight.grad.abs().sum() > 0 and not student.get_submodule("sums.3").low.isnan()
        done = quantized.convert(student)
        assert all(one.observer is None for one in quantized.rounders(done))

    def test_networks_without_additions_stay_what_they_are(self):
        assert type(quantized.prepare(load_network("slim_vgg"), 4, 4, sums=True)).__name__ == "SlimVGG"
