"""Many sets of ranks at once give what the networks give one by one."""

import copy

import pytest
import torch
from conftest import with_statistics
from torch import nn

from datafree.core.metrics import outputs
from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.networks.weights import state_hash
from datafree.networks.zoo import build_network
from datafree.papers.frandi import candidates, factorization


@pytest.fixture(scope="module")
def factors():
    torch.manual_seed(0)
    return factorization.Factorizer(with_statistics(build_network("resnet20"), batch=8))


@pytest.fixture(scope="module")
def rows(factors):
    """Rows with all, some and no ranks in common, not in sorted order, one of them twice."""
    row = [max(1, layer.full_rank // 4) for layer in factors.layers.values()]
    late, early = row[:-1] + [row[-1] + 1], [row[0] + 2] + row[1:]
    middle = row[:9] + [r + 1 for r in row[9:]]
    return [tuple(r) for r in (early, row, late, middle, row)]


@pytest.fixture(scope="module")
def pool():
    return generated(torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)), "noise")


class TestCandidates:
    """One pass over many sets of ranks gives what one network after the other gives."""

    @pytest.mark.parametrize("calibrated", [False, True])
    def test_outputs_are_those_of_the_networks_one_by_one(self, factors, rows, pool, calibrated):
        found = candidates.Candidates(factors, calibrated=calibrated).outputs(pool, rows)
        for row, z in zip(rows, found):
            thin = factors.network(dict(zip(factors.layers, row)))
            if calibrated:
                for module in thin.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.train()
                with torch.no_grad():
                    wanted = thin(pool.floats())
            else:
                wanted = outputs(thin, pool)
            torch.testing.assert_close(z, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))

    def test_batches_make_no_difference(self, factors, rows, pool):
        whole, parts = (candidates.Candidates(factors).outputs(pool, rows[:2], batch) for batch in (6, 4))
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)

    def test_what_is_shared_runs_once(self, factors, rows, pool):
        class Counting(candidates.Candidates):
            count = 0

            def call_module(self, target, args, kwargs):
                self.count += target in self.ranks
                return super().call_module(target, args, kwargs)

        runner = Counting(factors)
        runner.outputs(pool, rows)
        layers, order = len(rows[0]), sorted(rows)
        assert runner.count == layers + sum(layers - candidates.common(a, b) for a, b in zip(order, order[1:]))
        assert runner.count < len(rows) * layers

    def test_the_model_is_left_alone(self, factors, rows, pool):
        before = state_hash(factors.model)
        candidates.Candidates(factors, calibrated=True).outputs(pool, rows)
        assert state_hash(factors.model) == before

    def test_wrong_ranks_are_named(self, factors, rows, pool):
        with pytest.raises(DataFreeError, match="2 ranks was given for 18 layers"):
            candidates.Candidates(factors).outputs(pool, [(1, 2)])
        with pytest.raises(DataFreeError, match="rank 0 of 'layer1.0.conv1'"):
            candidates.Candidates(factors).outputs(pool, [(0, *rows[0][1:])])

    @pytest.mark.parametrize("folded", [False, True])
    def test_the_quickest_way_computes_what_the_dense_kernel_does(self, factors, folded):
        many, generator = candidates.Candidates(factors, calibrated=not folded), torch.Generator().manual_seed(1)
        kinds = set()
        for name in ("layer1.0.conv1", "layer2.0.conv1", "layer3.2.conv2"):
            layer, dense = factors.layers[name], copy.deepcopy(factors.model.get_submodule(name))
            x = torch.rand(2, dense.in_channels, 9, 9, generator=generator)
            for rank in (1, layer.full_rank // 5, layer.full_rank):
                dense.weight.data = factors.compact(name, rank)
                wanted = dense(x)
                if folded:
                    wanted = factors.model.get_submodule(many.wires.layer(name).norm)(wanted)
                kinds.add(type(factors.quickest(name, rank)))
                torch.testing.assert_close(many._quickest(name, rank)(x), wanted, rtol=1e-4, atol=1e-4)
        assert kinds == {nn.Conv2d, nn.Sequential}
