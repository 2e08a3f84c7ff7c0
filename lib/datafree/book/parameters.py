"""The parameters of each chapter, and the profiles that set them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from .. import files
from ..config import Device as DeviceName
from ..config import Precision as PassPrecision
from ..config import Strict, from_text, suggestion, validate
from ..errors import DataFreeError

Seed = Annotated[int, Field(ge=0, lt=2**31, description="seeds Python, NumPy and torch")]
Profile = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", description="name of a file in notebooks/profiles")]
Device = Annotated[DeviceName, Field(description="where network and images lie; auto: a CUDA card if there is one")]
Model = Annotated[str, Field(min_length=1, description="name of the network")]
Weights = Annotated[
    str, Field(description="a name of `datafree inputs`, or a file of a state dict; empty: the embedded weights")
]
Triple = Annotated[
    str,
    Field(
        pattern=r"^$|^\s*\d*\.?\d+(?:[\s,]+\d*\.?\d+){2}\s*$",
        description="three numbers for red, green and blue; empty: those stored with the weights",
    ),
]
Data = Annotated[
    str,
    Field(
        min_length=1,
        description="cifar10-stub, scenes, a name of `datafree inputs`, one of torchvision's sets, or folder:PATH",
    ),
]
Root = Annotated[str, Field(description="folder of torchvision's data sets; empty for all others")]
Precision = Annotated[
    PassPrecision,
    Field(description="arithmetic of the network's passes in synthesis; auto: bf16 where the processor has it"),
]
Batch = Annotated[int, Field(ge=2, le=4096, description="images a step")]
Rate = Annotated[float, Field(gt=0, le=10, description="first learning rate of Adam on the images (not given)")]
Copies = Annotated[int, Field(ge=1, le=16, description="augmented copies of each image a step (section 4.1: 4)")]
NUMBERS = r"^\d+(\.\d+)?( \d+(\.\d+)?)*$"
"""Pattern of numbers with a space between them."""
TestImages = Annotated[int, Field(ge=10, le=1_000_000, description="test images to evaluate on, at most")]


def _some_of(names: str) -> dict[str, str]:
    """Pattern and description of a text that holds some of these names."""
    return {"pattern": rf"^({names.replace(' ', '|')}| )*$", "description": f"what else is compared, of: {names}"}


class NotebookParameters(Strict):
    """What every chapter is asked: the run, the network and the images."""

    seed: Seed = 0
    profile: Profile = "book"
    device: Device = "auto"
    model: Model = "resnet20"
    weights: Weights = ""
    mean: Triple = ""
    std: Triple = ""
    data: Data = "cifar10-stub"
    root: Root = ""


class Start(NotebookParameters):
    """Parameters of 00_start."""

    images: int = Field(2000, ge=10, le=1_000_000, description="test images to evaluate on, at most")


class KWSynthesis(NotebookParameters):
    """Parameters of 01_kw_synthesis."""

    batch: Batch = 64
    steps: int = Field(50, ge=2, le=100_000, description="steps of each optimisation (section 4.3: 1000)")
    rate: Rate = 0.1
    copies: Copies = 1
    precision: Precision = "auto"
    comparisons: str = Field("mse", **_some_of("mse losses scale"))
    short_steps: int = Field(20, ge=2, le=100_000, description="steps of the runs that are compared there")
    test_images: TestImages = 1000


class KWImages(NotebookParameters):
    """How the images are made that several chapters of *The Knowledge Within* share, and the chapter on UDFC."""

    images: int = Field(250, ge=10, le=1_000_000, description="images of each source (section 4.2: 50 a class)")
    synthesis_batch: Batch = 128
    synthesis_steps: int = Field(40, ge=1, le=100_000, description="steps of Algorithm 1 (not given)")
    rate: Rate = 0.1
    copies: Copies = 1
    precision: Precision = "auto"


class KWCalibration(KWImages):
    """Parameters of 02_kw_calibration."""

    seeds: int = Field(2, ge=1, le=100, description="repetitions of each calibration")
    steps: int = Field(4, ge=1, le=100_000, description="calibration batches (section 4.2: 200)")
    batch: int = Field(128, ge=16, le=4096, description="images a calibration batch (section 4.2: 256)")
    comparisons: str = Field("", **_some_of("precision kernels calibrators rounded"))
    test_images: TestImages = 400


class KWDistillation(KWImages):
    """Parameters of 03_kw_distillation."""

    bits: str = Field(
        "2 4 4",
        pattern=r"^([2-9]|1[0-6])( ([2-9]|1[0-6])){2}$",
        description="of weights, of activations, and of both in the first and the last layer (table 1)",
    )
    steps: int = Field(25, ge=2, le=1_000_000, description="steps of the main runs (section 4.2: 16,000)")
    comparisons: str = Field("noise", **_some_of("noise recipe sizes snapshots labels mixtures intervals readings"))
    short_steps: int = Field(8, ge=2, le=1_000_000, description="steps of the runs that are compared there")
    batch: Batch = 32
    kd_rate: float = Field(0.002, gt=0, le=10, description="peak learning rate of distillation (not given)")
    noise_rate: float = Field(1e-4, gt=0, le=10, description="the same on noise, with BatchNorm frozen (not given)")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="of distillation (section 4.2: sgd)")
    calibration_steps: int = Field(5, ge=1, le=100_000, description="calibration batches of 128 before distilling")
    whole_images: int = Field(500, ge=10, le=1_000_000, description="real images that stand for all of them (table 6)")
    test_images: TestImages = 500


class KWCorrespondence(KWImages):
    """Parameters of 04_kw_correspondence."""

    batch: int = Field(128, ge=2, le=4096, description="images a batch where J_KL is averaged over batches")
    reference_images: int = Field(250, ge=10, le=1_000_000, description="training images, at most (table 4: all)")
    test_images: TestImages = 500
    probe_images: int = Field(
        250,
        ge=10,
        le=1_000_000,
        description="images of each other set, at most; at most half of the test images are damaged",
    )
    natural: str = Field("", description="another set of natural images, named as `data` is; empty for none")
    cifar100: str = Field("", description="a network of CIFAR-100, as `datafree inputs` names it; empty for none")


class LWEqualization(NotebookParameters):
    """Parameters of 05_lw_equalization."""

    model: Model = "mobilenet_v2_small"
    second: Model = "resnet20"
    images: int = Field(500, ge=10, le=1_000_000, description="test and training images to compare with, at most")
    samples: int = Field(256, ge=2, le=100_000, description="imitated inputs of each layer (figure 4: 2000)")
    size: int = Field(8, ge=5, le=224, description="height and width of imitated inputs (not given)")


Shares = Annotated[str, Field(pattern=r"^0?\.\d+( 0?\.\d+)*$", description="shares to prune, between 0 and 1")]
Widths = Annotated[
    str, Field(pattern=r"^([2-9]|1[0-6])( ([2-9]|1[0-6]))*$", description="bits of the weights, 2 to 16 each")
]


Also = Annotated[str, Field(description="of another network, as `weights` and `data` are; empty: as for the first one")]
NoWidths = Annotated[
    str,
    Field(pattern=r"^(([2-9]|1[0-6])( |$))*$", description="widths at which AKD and DI run on that network, if any"),
]
LiteSize = Annotated[
    int, Field(ge=32, le=512, description="side of its images (224, at which it was trained, costs four times 112)")
]


class LWQuantization(NotebookParameters):
    """Parameters of 06_lw_quantization."""

    model: Model = "mobilenet_v2_small"
    second: Model = "resnet20"
    second_weights: Also = ""
    second_data: Also = ""
    third: Model = "slim_vgg"
    third_weights: Also = ""
    third_data: Also = ""
    bits: Widths = "8 5 4"
    costly_bits: Widths = "4"
    other_bits: Widths = "8 4"
    second_costly_bits: NoWidths = ""
    third_costly_bits: NoWidths = ""
    samples: int = Field(2000, ge=10, le=1_000_000, description="imitated inputs of each layer (figure 4: 2000)")
    grid: int = Field(100, ge=2, le=1000, description="N of figure 4")
    synthetic_images: int = Field(16, ge=2, le=100_000, description="images of ZeroQ and of Deep Inversion, each")
    synthetic_steps: int = Field(15, ge=1, le=100_000, description="steps on them (ZeroQ: 500, Deep Inversion: 2000)")
    round_steps: int = Field(15, ge=1, le=100_000, description="steps of AdaRound on each layer (10,000)")
    training_steps: int = Field(4, ge=1, le=1_000_000, description="steps of the distilled students (not given)")
    batch: Batch = 16
    test_images: TestImages = 200
    other_images: TestImages = 100
    lite_bits: Widths = "8 7 6"
    lite_samples: int = Field(
        300, ge=10, le=1_000_000, description="imitated inputs of each layer of EfficientNet-Lite0"
    )
    lite_images: int = Field(30, ge=2, le=1_000_000, description="images that EfficientNet-Lite0 is compared on")
    lite_size: LiteSize = 112
    imagenet: str = Field(
        "", description="images of ImageNet for EfficientNet-Lite0, named as `data` is; empty: enlarged ones of `data`"
    )


class LWPruning(NotebookParameters):
    """Parameters of 07_lw_pruning."""

    model: Model = "mobilenet_v2_small"
    second: Model = "resnet20"
    second_weights: Also = ""
    second_data: Also = ""
    shares: Shares = "0.35 0.5 0.62"
    second_shares: Shares = "0.35 0.5"
    steps: int = Field(100, ge=1, le=1_000_000, description="steps of Adam on each layer (section IV: 100,000)")
    rate: float = Field(0.001, gt=0, le=1, description="first rate of Adam (section IV: 0.001)")
    inputs: Literal["drawn", "expected"] = Field(
        "expected",
        description="what layers learn on: imitated inputs, drawn anew each step (paper), or their mean (ours)",
    )
    drawn_steps: int = Field(
        20, ge=1, le=1_000_000, description="steps of the runs that compare drawn inputs with their mean"
    )
    repeats: int = Field(3, ge=2, le=100, description="runs with drawn inputs, each with a seed of its own")
    long_steps: int = Field(400, ge=1, le=1_000_000, description="longest training")
    decay_steps: int = Field(
        600, ge=1, le=1_000_000, description="steps in closed form that show what decay does (section IV: 100,000)"
    )
    costly_shares: Shares = "0.5"
    generative_steps: int = Field(4, ge=1, le=1_000_000, description="steps of AKD and of DI (not given)")
    generative_batch: int = Field(16, ge=2, le=10_000, description="images a step of AKD and of DI (not given)")
    many_steps: int = Field(4, ge=1, le=1_000_000, description="steps of each of many runs; from 100 on they are made")
    inversion_steps: int = Field(10, ge=1, le=100_000, description="steps on the images of DI (2000)")
    race: float = Field(
        2.0, ge=1, le=100, description="time that AKD and DI get to catch up, in units of the method's own (figure 3c)"
    )
    race_steps: int = Field(300, ge=1, le=1_000_000, description="steps of the method there (a few hundred suffice)")
    batch: Batch = 16
    test_images: TestImages = 300
    lite_shares: Shares = "0.15"
    lite_steps: int = Field(40, ge=1, le=1_000_000, description="steps of Adam on EfficientNet-Lite0")
    lite_images: int = Field(40, ge=10, le=1_000_000, description="images that EfficientNet-Lite0 is compared on")
    lite_size: LiteSize = 112
    imagenet: str = Field(
        "", description="images of ImageNet for EfficientNet-Lite0, named as `data` is; empty: enlarged ones of `data`"
    )


class UDFCRepair(KWImages):
    """Parameters of 08_udfc."""

    images: int = Field(64, ge=10, le=100_000, description="images of each source, which pass through the network")
    synthesis_batch: Batch = 64
    shares: Shares = "0.3 0.5"
    bits: Widths = "4 3"
    sources: str = Field(
        "bns",
        pattern=r"^bns( bns_inception)?$",
        description="schemes of the synthetic images: bns, and bns_inception or not",
    )
    other_steps: int = Field(15, ge=1, le=100_000, description="steps on images for the other networks and for ranges")
    other_images: Batch = Field(32, description="images made for each of these")
    test_images: TestImages = 400
    side_images: int = Field(150, ge=10, le=1_000_000, description="test images of all but the main table, at most")
    vgg: Model = Field("slim_vgg", description="network for the introduction's VGG-16, of CIFAR-10")
    vgg_weights: Weights = ""
    second: Weights = Field("", description="a name of `datafree inputs`: one more network, of CIFAR-100; empty: none")


Reduction = Annotated[float, Field(gt=1, le=20, description="how many times fewer FLOPs")]


class FRanDIRecovery(NotebookParameters):
    """Parameters of 09_frandi_recovery."""

    ranks: Literal["one share", "table 8"] = Field(
        "one share", description="of the split layers: the same share of each, or those of table 8 for its ResNet-18"
    )
    reduction: Reduction = 3.0
    images: int = Field(48, ge=16, le=4096, description="synthetic images of the main run (section 4.1: 256)")
    synthesis_steps: int = Field(40, ge=2, le=100_000, description="steps of Adam on them (section 4: 500)")
    steps: int = Field(20, ge=2, le=100_000, description="steps of recovery (section 4.1: about 1000)")
    rate: float = Field(0.003, gt=0, le=10, description="highest rate of recovery (section 4: 1e-4)")
    warmup: float = Field(0.2, ge=0, lt=1, description="share of the steps of recovery with a rising rate (not given)")
    finetune_rate: float = Field(1e-3, gt=0, le=10, description="first rate of fine-tuning on real images (not given)")
    batch: int = Field(12, ge=2, le=4096, description="images of one set of figure 3; smaller and larger ones (256)")
    small_images: int = Field(16, ge=4, le=4096, description="images of each set that recipes are compared on")
    small_synthesis_steps: int = Field(20, ge=2, le=100_000, description="steps of Adam on those sets")
    small_steps: int = Field(8, ge=2, le=100_000, description="steps of recovery in comparisons")
    long_images: int = Field(8, ge=2, le=4096, description="images of the sets that are optimised longer and longer")
    long_synthesis_steps: str = Field(
        "100 500 1000", pattern=r"^[1-9]\d*( [1-9]\d*)*$", description="steps of Adam on those sets (section 4: 500)"
    )
    long_steps: int = Field(100, ge=2, le=100_000, description="steps of recovery on those sets")
    seeds: int = Field(1, ge=1, le=100, description="sets for each row of table 1 (5)")
    points: int = Field(5, ge=2, le=1000, description="of each curve of figure 4, besides its start")
    test_images: TestImages = 250
    precision: Precision = "auto"


class FRanDISelection(NotebookParameters):
    """Parameters of 10_frandi_selection."""

    second: Model = "slim_vgg"
    second_weights: Weights = ""
    reductions: str = Field("2 3", pattern=NUMBERS, description="times fewer FLOPs, several, of table 5")
    images: int = Field(32, ge=4, le=4096, description="synthetic images of each network (section 5.1: 128 to 256)")
    synthesis_steps: int = Field(60, ge=2, le=100_000, description="steps of Adam on them (section 4: 500)")
    networks: int = Field(24, ge=4, le=10_000, description="random networks of figure 2 (50)")
    recovered_networks: int = Field(6, ge=2, le=10_000, description="how many of them are recovered too (not given)")
    recovered_batch: int = Field(16, ge=2, le=4096, description="images a step in these recoveries (section 5.1: all)")
    plot_reduction: Reduction = 3.0
    candidates: int = Field(500, ge=4, le=100_000, description="sets of ranks of the search (section 5.1: 500)")
    other_candidates: int = Field(
        40, ge=4, le=100_000, description="sets of ranks of every other search (section 5.1: 500)"
    )
    branches: int = Field(4, ge=0, le=1000, description="distinct first ranks of a search; 0: all independent")
    steps: int = Field(12, ge=1, le=100_000, description="steps of recovery (section 5.1: 500)")
    rate: float = Field(0.003, gt=0, le=10, description="highest rate of recovery (section 5.1: 1e-3)")
    warmup: float = Field(0.2, ge=0, lt=1, description="share of the steps of recovery with a rising rate (not given)")
    test_images: TestImages = 200
    precision: Precision = "auto"


class FRanDIPruneQuantize(NotebookParameters):
    """Parameters of 11_frandi_prune_quantize."""

    images: int = Field(32, ge=16, le=4096, description="synthetic images (section 4.1: 256)")
    synthesis_steps: int = Field(50, ge=2, le=100_000, description="steps of Adam on them (section 4: 500)")
    kept: str = Field(
        "0.5 0.2",
        pattern=r"^0?\.\d+( 0?\.\d+)*$",
        description="shares of the parameters that stay, between 0 and 1 (table 4: 0.5, 0.8)",
    )
    candidates: int = Field(20, ge=4, le=100_000, description="sets of shares of each search (not given)")
    branches: int = Field(4, ge=0, le=1000, description="distinct first shares of a search; 0: all independent")
    widths: str = Field(
        "w3a3 w4a4",
        pattern=r"^w[2-8]a[2-8]( w[2-8]a[2-8])*$",
        description="bits of weights and of inputs, w4a4 among them (table 9: w3a3 w4a4 w4a8 w8a4)",
    )
    calibrate: bool = Field(
        False, description="BatchNorm measured again on the images before recovery (section 4.2: yes)"
    )
    steps: int = Field(12, ge=2, le=100_000, description="steps of Feature Regression (table 4: 400)")
    finetune_steps: int = Field(6, ge=1, le=100_000, description="steps of the shorter fine-tuning (table 4: 200)")
    rate: float = Field(0.003, gt=0, le=10, description="first rate of Feature Regression (not given)")
    quantize_rate: float = Field(0.003, gt=0, le=10, description="the same for rounded networks (not given)")
    warmup: float = Field(0.2, ge=0, lt=1, description="share of the steps of recovery with a rising rate (not given)")
    finetune_rate: float = Field(1e-3, gt=0, le=10, description="first rate of fine-tuning (not given)")
    batch: Batch = 16
    rival_steps: int = Field(
        0, ge=0, le=1_000_000, description="steps of GDFQ (its paper: 80,000) and ZAQ; 0: these two are left out"
    )
    reduction: Reduction = 3.0
    percents: str = Field(
        "2 20 100",
        pattern=r"^\d+(\.\d+)?( \d+(\.\d+)?)*$",
        description="shares of the training images, in percent (table 6: 1 to 100)",
    )
    repeats: int = Field(2, ge=1, le=100, description="draws of each share (table 6: 5)")
    mixed_steps: int = Field(8, ge=1, le=1_000_000, description="steps of fine-tuning on a share, at least (not given)")
    mixed_epochs: float = Field(1.0, gt=0, le=1000, description="and as many passes over it (not given)")
    mixed_rate: float = Field(3e-4, gt=0, le=10, description="first rate of it (not given)")
    train_images: int = Field(500, ge=10, le=1_000_000, description="real training images, at most (paper: all)")
    test_images: TestImages = 250
    precision: Precision = "auto"


class FRanDISegmentation(NotebookParameters):
    """Parameters of 12_frandi_segmentation."""

    model: Model = "segmenter"
    data: Data = "scenes"
    reductions: str = Field("2.5 3", pattern=NUMBERS, description="times fewer FLOPs, rising (table 7)")
    images: int = Field(16, ge=2, le=4096, description="synthetic images (section 5.2: 16)")
    other_images: str = Field("4 32", pattern=r"^\d+( \d+)*$", description="further sizes of the set of images")
    synthesis_steps: int = Field(100, ge=2, le=100_000, description="steps of Adam on them (section 4: 500)")
    candidates: int = Field(24, ge=4, le=100_000, description="sets of ranks of each search (section 5.1: 500)")
    branches: int = Field(4, ge=0, le=1000, description="distinct first ranks of a search; 0: all independent")
    steps: int = Field(24, ge=1, le=100_000, description="steps of recovery (not given; section 5.1: 500)")
    rate: float = Field(0.003, gt=0, le=10, description="highest rate of recovery (not given)")
    warmup: float = Field(0.2, ge=0, lt=1, description="share of the steps of recovery with a rising rate (not given)")
    test_images: TestImages = 150
    precision: Precision = "auto"


class Shootout(NotebookParameters):
    """Parameters of 13_shootout."""

    bits: Widths = "6 4 3"
    shares: Shares = "0.3 0.5 0.7"
    images: int = Field(64, ge=2, le=100_000, description="synthetic images, for all methods that take some")
    synthesis_steps: int = Field(30, ge=2, le=100_000, description="steps of each synthesis")
    samples: int = Field(500, ge=2, le=100_000, description="imitated inputs a layer")
    steps: int = Field(12, ge=2, le=1_000_000, description="steps of every method that trains the whole network")
    batch: Batch = 32
    rate: float = Field(0.001, gt=0, le=10, description="first rate of distillation and fine-tuning")
    candidates: int = Field(40, ge=2, le=100_000, description="sets of ranks that FRanDI compares")
    map_percents: str = Field("5 100", pattern=NUMBERS, description="shares of the training images, in percent")
    map_steps: str = Field("4 24", pattern=r"^\d+( \d+)*$", description="lengths of training, rising")
    train_images: int = Field(1000, ge=10, le=1_000_000, description="real training images, at most")
    test_images: TestImages = 400
    precision: Precision = "auto"


class Beyond(KWImages):
    """Parameters of 14_beyond."""

    images: int = Field(64, ge=10, le=100_000, description="synthetic images, which pass through the network")
    synthesis_batch: Batch = 64
    widths: str = Field(
        "2w4a 4w4a", pattern=r"^[2-8]w[2-8]a( [2-8]w[2-8]a)*$", description="bits of weights and of inputs"
    )
    share: float = Field(0.5, gt=0, lt=1, description="of the channels of every pair of layers, which goes")
    shares: Shares = "0.5"
    reduction: float = Field(3.0, ge=0, le=20, description="times fewer FLOPs by thin convolutions; 0 leaves it out")
    steps: int = Field(12, ge=2, le=1_000_000, description="steps of each distillation and each regression")
    batch: Batch = 16
    kd_rate: float = Field(0.002, gt=0, le=10, description="peak rate of distillation (not given)")
    kd_features: float = Field(
        0.001, ge=0, le=100, description="weight of the IQ loss; 0 where the stages lose channels, as MobileNets' do"
    )
    regression_rate: float = Field(0.003, gt=0, le=10, description="peak rate of Feature Regression (section 4: 1e-4)")
    gentle_rate: float = Field(0.001, gt=0, le=10, description="the same behind the pass, where little is left to mend")
    test_images: TestImages = 400

    @field_validator("reduction")
    @classmethod
    def _reduces(cls, value: float) -> float:
        if 0 < value <= 1:
            raise ValueError("give more than 1, or 0 to leave low rank out")
        return value


class YourNetwork(NotebookParameters):
    """Parameters of 15_your_network."""

    model: str = Field("own/two_paths.py:build", pattern=r".+\.py:\w+", description="FILE.py:FUNCTION in data_stubs")
    weights: str = Field(
        "own/two_paths.safetensors", min_length=1, description="a state dict, in data_stubs or anywhere"
    )
    mean: Triple = "0.4914 0.4822 0.4465"
    std: Triple = "0.2470 0.2435 0.2616"
    images: int = Field(128, ge=2, le=100_000, description="synthetic images of each method")
    synthesis_steps: int = Field(40, ge=1, le=100_000, description="steps of each synthesis")
    samples: int = Field(500, ge=2, le=100_000, description="imitated inputs a layer")
    candidates: int = Field(40, ge=2, le=100_000, description="sets of ranks that are compared")
    steps: int = Field(30, ge=1, le=1_000_000, description="steps of recovery")
    test_images: TestImages = 2000
    rounds: int = Field(5, ge=1, le=10_000, description="how often one image is timed")
    precision: Precision = "auto"


NOTEBOOKS: dict[str, type[Strict]] = {
    "00_start": Start,
    "01_kw_synthesis": KWSynthesis,
    "02_kw_calibration": KWCalibration,
    "03_kw_distillation": KWDistillation,
    "04_kw_correspondence": KWCorrespondence,
    "05_lw_equalization": LWEqualization,
    "06_lw_quantization": LWQuantization,
    "07_lw_pruning": LWPruning,
    "08_udfc": UDFCRepair,
    "09_frandi_recovery": FRanDIRecovery,
    "10_frandi_selection": FRanDISelection,
    "11_frandi_prune_quantize": FRanDIPruneQuantize,
    "12_frandi_segmentation": FRanDISegmentation,
    "13_shootout": Shootout,
    "14_beyond": Beyond,
    "15_your_network": YourNetwork,
}
"""The parameters of each notebook; the defaults are those of its parameters cell and of the profile 'book'."""

ASK = "?"
"""In a profile: a value that only the user can give."""

_RUN_NAMES = ("seed", "profile", "device")


def parameters_of(notebook: str) -> type[Strict]:
    """The parameter class of a notebook, or DataFreeError with the names there are."""
    if notebook not in NOTEBOOKS:
        raise DataFreeError(
            f"notebook '{notebook}' is not known{suggestion(notebook, NOTEBOOKS)}; known: {', '.join(NOTEBOOKS)}."
        )
    return NOTEBOOKS[notebook]


def load_profile(profile: str) -> dict[str, dict[str, Any]]:
    """Notebook -> overrides of its defaults, from notebooks/profiles/PROFILE.yaml, all of them validated."""
    folder = files.ROOT / "notebooks" / "profiles"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if profile not in known:
        raise DataFreeError(f"profile '{profile}' is not known{suggestion(profile, known)}; known: {', '.join(known)}.")
    path = folder / f"{profile}.yaml"
    content = files.read_yaml(path) or {}
    if not isinstance(content, dict):
        raise DataFreeError(f"'{path}' must map names of notebooks to their parameters.")
    return {notebook: _profile_entry(path, notebook, values) for notebook, values in content.items()}


def _profile_entry(path: Path, notebook: str, values: Any) -> dict[str, Any]:
    values = {} if values is None else values
    if notebook not in NOTEBOOKS:
        close = suggestion(notebook, NOTEBOOKS)
        raise DataFreeError(
            f"'{path}' names a notebook '{notebook}' that does not exist{close}; known: {', '.join(NOTEBOOKS)}."
        )
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise DataFreeError(f"'{path}', notebook {notebook}: expected parameters as 'name: value'.")
    for name in _RUN_NAMES:
        if name in values:
            raise DataFreeError(
                f"'{path}', notebook {notebook}: '{name}' belongs to a run, not to a profile; remove it."
            )
    asked = {name for name, value in values.items() if value == ASK}
    unknown = asked - set(NOTEBOOKS[notebook].model_fields)
    given = {name: value for name, value in values.items() if name not in asked or name in unknown}
    validate(NOTEBOOKS[notebook], given, f"'{path}', notebook {notebook}")
    return values


def resolve(
    notebook: str, profile: str = "book", overrides: dict[str, Any] | None = None, seed: int = 0, device: str = "auto"
) -> Any:
    """The parameters of one run: defaults, then the profile's, then `overrides` (texts or values), then seed and device.

    Raises:
        DataFreeError: an unknown notebook, profile or name, a wrong type, NaN, a value out of range, or
            a value that the profile leaves to the user and that `overrides` does not give.
    """
    cls = parameters_of(notebook)
    values = dict(load_profile(profile).get(notebook, {}))
    for name in _RUN_NAMES:
        if name in (overrides or {}):
            raise DataFreeError(f"'{name}' is not an override; give --{name} VALUE instead of -p {name}=VALUE.")
    values |= from_text(cls, overrides or {})
    asked = [name for name, value in values.items() if value == ASK]
    if asked:
        hint = "; ".join(
            f"-p {name}=VALUE ({cls.model_fields[name].description})" for name in asked if name in cls.model_fields
        )
        raise DataFreeError(f"profile '{profile}' of {notebook} leaves {', '.join(asked)} to you; give {hint}.")
    return validate(cls, values | {"seed": seed, "profile": profile, "device": device}, notebook)


def overridden(notebook: str, config: Strict) -> dict[str, Any]:
    """Parameters of `config` that differ from its profile's; what the profile leaves to the user does not count."""
    profile = load_profile(config.profile).get(notebook, {})
    usual = parameters_of(notebook)().model_dump() | profile
    return {
        name: value
        for name, value in config.model_dump().items()
        if name not in _RUN_NAMES and usual[name] != ASK and value != usual[name]
    }
