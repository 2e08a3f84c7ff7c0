"""The profiles of FRanDI's tables (CIFAR-100, ImageNet), exercised on folders of small pictures."""

import pytest
import torch
from conftest import write_images

from datafree.book import chapters, parameters
from datafree.core import batchnorm
from datafree.core.metrics import outputs
from datafree.errors import DataFreeError
from datafree.networks.weights import load_network
from datafree.networks.zoo import build_network
from datafree.papers.frandi import factorization, regression, synthesis

CHAPTERS = ("09_frandi_recovery", "10_frandi_selection")
NORMAL = {"mean": "0.5 0.5 0.5", "std": "0.25 0.25 0.25"}


@pytest.mark.parametrize("notebook", (*CHAPTERS, "11_frandi_prune_quantize"))
@pytest.mark.parametrize(
    ("profile", "asked"),
    [("paper", "weights"), ("cifar100", "weights"), ("imagenet", "root"), ("reduced", "")],
)
def test_profiles_validate_and_ask_for_files_only(notebook, profile, asked):
    if asked:
        with pytest.raises(DataFreeError, match=f"leaves {asked} to you"):
            parameters.resolve(notebook, profile)
    config = parameters.resolve(notebook, profile, {asked: "somewhere"} if asked else {})
    assert config.images >= (64 if profile == "reduced" else 256)
    assert config.synthesis_steps >= (250 if profile == "reduced" else 500)


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """Folder of pictures in three classes, and random weights of both ResNet-18 for as many."""
    root = tmp_path_factory.mktemp("little")
    for split, seed in (("train", 0), ("test", 1)):
        write_images(root / split, count=4, size=32, classes=("dark", "grey", "light"), seed=seed)
    torch.manual_seed(0)
    for name in ("resnet18", "resnet18_cifar"):
        state = build_network(name, classes=3).state_dict()
        torch.save({k: v for k, v in state.items() if not k.startswith("normalize.")}, root / f"{name}.pt")
    return root


@pytest.mark.parametrize(
    ("profile", "name", "side"), [("cifar100", "resnet18_cifar", 32), ("imagenet", "resnet18", 224)]
)
def test_the_method_runs_on_a_folder(little, profile, name, side):
    given = {"weights": str(little / f"{name}.pt"), "data": f"folder:{little}", "root": ""}
    config = parameters.resolve("10_frandi_selection", profile, given | (NORMAL if side == 32 else {}))
    net, test = chapters.network(config), chapters.images(config, "test", 3)
    assert config.model == name and test.pixels.shape == (3, 3, side, side)
    pool, history = synthesis.synthesize(
        net, synthesis.Synthesis(images=2, steps=2, precision="float32"), (3, side, side)
    )
    splits = factorization.Factorizer(net, (3, side, side))
    thin = batchnorm.recalibrate(splits.network(splits.uniform(config.plot_reduction)), pool)
    done = regression.Regression(
        thin, net, list(splits.sites), pool, regression.Recovery(steps=1, batch=2, rate=config.rate)
    )
    assert len(history) == 2 and torch.isfinite(torch.tensor(done.run())).all()
    assert outputs(thin, test).shape == (3, 3)


def test_the_number_of_classes_follows_from_the_weights(little):
    net = load_network("resnet18_cifar", little / "resnet18_cifar.pt", mean=(0.5,) * 3, std=(0.25,) * 3)
    assert net.linear.out_features == 3
    with pytest.raises(DataFreeError, match="linear.weight"):
        load_network("resnet18_cifar", little / "resnet18_cifar.pt", mean=(0.5,) * 3, std=(0.25,) * 3, classes=7)
