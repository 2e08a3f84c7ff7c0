"""The command line: each command does its work, each mistake is one sentence and exit code 2."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file

import datafree
from datafree import api, cli, files
from datafree.config import from_text, validate
from datafree.core import metrics, short
from datafree.core.register import METHODS
from datafree.data.sources import load_images
from datafree.networks.weights import load_network

COMMANDS = sorted(typer.main.get_command(cli.app).commands)
NETWORK = "mobilenet_v2_small"


@pytest.fixture
def pictures(tmp_path):
    """Ten embedded test images a class, as a folder."""
    images = load_images("cifar10-stub").per_class(10)
    for i, (x, y) in enumerate(zip(images.pixels, images.labels, strict=True)):
        place = tmp_path / "pictures" / "test" / images.classes[y]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(place / f"{i:03d}.png")
    return tmp_path / "pictures"


def accuracy(out: str) -> list[float]:
    return [float(x) for x in re.findall(r"(-?[\d.]+) %", out)]


def test_without_arguments_the_commands_are_listed(run_cli):
    code, out, err = run_cli()
    assert {"train", "synthesize", "compress", "evaluate", "run", "ledger", "doctor"} <= set(COMMANDS)
    assert all(name in out + err for name in ("train", "synthesize", "compress", "evaluate", "run", "ledger", "doctor"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text(run_cli, command):
    code, out, err = run_cli(command, "--help")
    assert code == 0 and "Usage:" in out and not err
    assert cli_help(command) in " ".join(out.split())


def cli_help(command: str) -> str:
    """The first words of the command's docstring, which must not be empty."""
    text = typer.main.get_command(cli.app).commands[command].help
    assert text
    return " ".join(text.split()[:4])


def test_evaluating_the_embedded_network(run_cli, stubs):
    code, out, err = run_cli("evaluate", NETWORK)
    assert code == 0 and "on 2000 images" in out
    top1, top5 = accuracy(out)
    assert 85 < top1 < top5 <= 100


def test_compressing_and_evaluating_what_came_out(run_cli, stubs, pictures, tmp_path):
    values = dict(weight_bits=8, act_bits=8, edge_bits=8, scheme="gaussian", images=64, steps=2, batch=64, copies=1)
    flags = settings(*(f"{name}={value}" for name, value in values.items()))
    out = tmp_path / "small.safetensors"
    code, text, err = run_cli("compress", NETWORK, "--out", out, *flags, "-p", "synthesis_steps=2")
    assert code == 0, err
    report = json.loads(out.with_suffix(".json").read_text())
    assert f"{report['bytes_float']:.0f} -> {report['bytes']:.0f} bytes" in text
    assert report["bytes_float"] / 4 < report["bytes"] < report["bytes_float"] / 3

    again = ["evaluate", NETWORK, "--weights", out, "--report", out.with_suffix(".json")]
    code, text, err = run_cli(*again, "--data", f"folder:{pictures}")
    assert code == 0, err
    result = datafree.compress(load_network(NETWORK), datafree.KnowledgeWithin(**values, synthesis_steps=2))
    expected = metrics.top1(result.model, load_images(f"folder:{pictures}"))
    assert accuracy(text)[0] == pytest.approx(expected, abs=1.01)  # one image of 100
    assert expected > 60


def test_synthesized_images_are_kept_and_taken_up_again(run_cli, stubs, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BUILD", tmp_path)
    smaller = settings(f"model={NETWORK}", "images=10", "synthesis_batch=10", "synthesis_steps=2")
    for _ in range(2):
        code, out, err = run_cli("synthesize", "--scheme", "bns", "--profile", "smoke", *smaller)
        assert code == 0 and "10 images of scheme BNS ->" in out, err
        made = list((tmp_path / "images").rglob("*.safetensors"))
        assert len(made) == 1 and made[0].name in out
        stamp = made[0].stat().st_mtime_ns
    assert made[0].stat().st_mtime_ns == stamp


def test_training_from_the_command_line(run_cli, tiny, folder, tmp_path):
    out = tmp_path / "w.safetensors"
    quick = settings("epochs=1", "batch=8", "rate=0.05", "mean=.5 .5 .5", f"data=folder:{folder}")
    code, text, err = run_cli("train", "tiny", "--out", out, *quick, "--threads", torch.get_num_threads())
    assert code == 0 and "top-1 on 8 test images" in text, err
    parameters = json.loads(out.with_suffix(".json").read_text())["parameters"]
    assert out.is_file() and parameters["rate"] == 0.05 and parameters["mean"] == [0.5, 0.5, 0.5]


def settings(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("-p", pair)]


def broken_report(tmp_path, content: str):
    (tmp_path / "r.json").write_text(content)
    return ["evaluate", NETWORK, "--weights", tmp_path / "w.safetensors", "--report", tmp_path / "r.json"]


MISTAKES = {
    "other classes": (lambda t: ["evaluate", "efficientnet_lite0"], "has 10 classes, the network 1000"),
    "unknown network": (lambda t: ["evaluate", "resnet21"], "model 'resnet21' is not known"),
    "no embedded weights": (lambda t: ["evaluate", "resnet56"], "no embedded weights; give weights=NAME"),
    "missing weights": (lambda t: ["evaluate", "resnet20", "--weights", t / "no.pt"], "does not exist"),
    "no normalisation": (lambda t: ["evaluate", "resnet20", "--weights", t / "w.safetensors"], "give mean="),
    "words for numbers": (lambda t: ["evaluate", "resnet20", "--mean", "a b c"], "'a b c' was given in place of three"),
    "half a normalisation": (lambda t: ["evaluate", "resnet20", "--mean", ".1 .1 .1"], "must be given together"),
    "two numbers": (
        lambda t: ["evaluate", "resnet20", "--mean", ".1 .1", "--std", ".1 .1"],
        "'.1 .1' was given in place of three",
    ),
    "unknown data": (lambda t: ["evaluate", NETWORK, "--data", "cifar11"], "data set 'cifar11' is not known"),
    "missing folder": (lambda t: ["evaluate", NETWORK, "--data", f"folder:{t}/no"], "does not exist; expected"),
    "no root": (lambda t: ["evaluate", NETWORK, "--data", "mnist"], "needs root=PATH"),
    "report alone": (lambda t: ["evaluate", NETWORK, "--report", t / "r.json"], "give --weights OUT.safetensors"),
    "empty report": (lambda t: broken_report(t, ""), "is not a report of `datafree compress`"),
    "list as report": (lambda t: broken_report(t, "[1]"), "is not a report of `datafree compress`"),
    "text as settings": (lambda t: broken_report(t, '{"config": "x"}'), "is not a report of `datafree compress`"),
    "wrong settings": (
        lambda t: broken_report(t, '{"config": {"weight_bits": 99}, "method": "knowledge_within"}'),
        "parameter 'weight_bits'",
    ),
    "no method": (lambda t: broken_report(t, '{"config": {}}'), "is not a report of `datafree compress`"),
    "other weights": (
        lambda t: broken_report(t, '{"config": {}, "method": "knowledge_within"}'),
        "do not fit SmallMobileNetV2: the file lacks",
    ),
    "one bit": (lambda t: ["compress", NETWORK, "--out", t / "o.safetensors", "-p", "weight_bits=1"], "greater than"),
    "unknown scheme": (lambda t: ["compress", NETWORK, "--out", t / "o.safetensors", "-p", "scheme=x"], "'scheme'"),
    "unknown method": (
        lambda t: ["compress", NETWORK, "--out", t / "o.safetensors", "--method", "frandy"],
        "did you mean 'frandi'?",
    ),
    "a method's other name": (
        lambda t: ["compress", NETWORK, "--out", t / "o.safetensors", "--method", "udfc", "-p", "steps=3"],
        "parameter 'steps'",
    ),
    "value and group": (
        lambda t: ["compress", NETWORK, "--out", t / "o.safetensors", "-p", "a.b=1", "-p", "a=2"],
        "both as a value and as a group",
    ),
    "group in a value": (
        lambda t: ["compress", NETWORK, "--out", t / "o.safetensors", "-p", "a=2", "-p", "a.b=1"],
        "both as a value and as a group",
    ),
    "groups in a value": (
        lambda t: ["compress", NETWORK, "--out", t / "o.safetensors", "-p", "a=2", "-p", "a.b.c=1"],
        "both as a value and as a group",
    ),
    "nothing of this name": (lambda t: ["methods", "kw"], "method 'kw' is not known"),
    "a report of nothing": (lambda t: broken_report(t, '{"config": {}, "method": "x"}'), "names a method 'x'"),
    "a report without ranks": (
        lambda t: broken_report(t, '{"config": {}, "method": "frandi"}'),
        "does not describe what is in",
    ),
    "ending": (lambda t: ["compress", NETWORK, "--out", t / "o.json"], "ends in '.safetensors'"),
    "unknown profile": (lambda t: ["synthesize", "--profile", "big"], "profile 'big' is not known"),
    "unknown source": (
        lambda t: ["synthesize", "--profile", "smoke", "-p", f"model={NETWORK}", "--scheme", "x"],
        "'x'",
    ),
    "word for steps": (lambda t: ["synthesize", "-p", "synthesis_steps=many"], "parameter 'synthesis_steps'"),
    "NaN": (lambda t: ["synthesize", "-p", "rate=nan"], "parameter 'rate'"),
    "no pair": (lambda t: ["synthesize", "-p", "rate"], "write '-p NAME=VALUE'"),
    "untrained": (
        lambda t: ["train", "x", "--out", t / "o.safetensors", "-p", "data=cifar10-stub"],
        "model 'x' is not",
    ),
    "no epochs": (lambda t: ["train", "resnet20", "--out", t / "o.safetensors", "-p", "epochs=0"], "'epochs'"),
    "word for epochs": (lambda t: ["train", "resnet20", "--out", t / "o.safetensors", "-p", "epochs=x"], "'epochs'"),
    "a typing error": (
        lambda t: ["train", "resnet20", "--out", t / "o.safetensors", "-p", "epoch=3"],
        "Known parameters: model, data, root",
    ),
    "two networks": (
        lambda t: ["train", "resnet20", "--out", t / "o.safetensors", "-p", "model=x"],
        "the network is the first argument",
    ),
    "one number for three": (
        lambda t: ["train", "resnet20", "--out", t / "o.safetensors", "-p", "mean=0.5"],
        "'0.5' was given in place of three numbers",
    ),
    "unwritable": (lambda t: ["train", "resnet20", "--out", t / "o.pt"], "ends in '.safetensors'"),
    "unknown network of a run": (
        lambda t: ["run", "00_start", "-p", "model=resnet21"],
        "model 'resnet21' is not known",
    ),
    "unknown notebook": (lambda t: ["run", "99_end"], "there is no notebook '99_end'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_sentence(run_cli, stubs, tmp_path, mistake):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    arguments, message = MISTAKES[mistake]
    before = sorted(tmp_path.iterdir())
    code, out, err = run_cli(*arguments(tmp_path))
    assert code == 2 and out == ""
    assert err.startswith("datafree: ") and message in err
    assert err.count("\n") == 1 and err.rstrip()[-1] in ".)" and "Traceback" not in err
    assert set(tmp_path.iterdir()) - set(before) <= {tmp_path / "r.json"}


@pytest.mark.parametrize(
    "arguments", [["evaluate"], ["nothing"], ["compress", NETWORK], ["train", "x", "--out", "o", "--threads", "x"]]
)
def test_wrong_usage_has_exit_code_2(run_cli, arguments):
    code, _, err = run_cli(*arguments)
    assert code == 2 and err and "Traceback" not in err


def test_an_output_that_cannot_be_written(run_cli, tiny, folder, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "w.safetensors"
    code, _, err = run_cli("train", "tiny", "--out", out, *settings(f"data=folder:{folder}", "epochs=1", "batch=8"))
    assert code == 2 and "cannot write" in err.splitlines()[-1]


def test_an_interruption_says_how_to_go_on(run_cli, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("datafree.networks.weights.load_network", stop)
    code, _, err = run_cli("evaluate", "resnet20")
    assert code == 130 and err == "datafree: interrupted; run the same command again to go on.\n"


IN_HASTE = "import sys; from datafree import cli\ntry: cli.main()\nfinally: print(*sys.modules, file=sys.stderr)"
"""The program, which tells at its end what it has imported."""


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["compress", "--help"], ["nothing"]])
def test_help_is_there_at_once(arguments):
    command = [sys.executable, "-c", IN_HASTE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert done.returncode == (2 if arguments == ["nothing"] else 0) and "datafree.cli" in loaded
    assert not loaded & {"torch", "numpy", "matplotlib", "datafree.api", "datafree.config"}


def test_methods_lists_what_can_be_set(run_cli):
    code, out, err = run_cli("methods")
    assert code == 0 and len(out.splitlines()) == len(api.METHODS) and "(The Knowledge Within)" in out
    code, out, err = run_cli("methods", "frandi")
    assert code == 0 and "  reduction = " in out
    assert "  recovery.steps = " in out and "  recovery = " not in out, "a group is listed by what is in it"
    code, out, err = run_cli("methods", "knowledge_within")
    assert "  distillation = None" in out and "  distillation.steps = " in out, "a group that is off can be turned on"


def test_as_a_program():
    """Once for real: another process, its exit code and its streams."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "datafree.cli", "evaluate", "resnet21"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("datafree: model 'resnet21' is not known") and run.stderr.count("\n") == 1


def test_compress_distils_from_the_command_line(run_cli, stubs, pictures, tmp_path):
    out = tmp_path / "taught.safetensors"
    few = ("scheme=gaussian", "images=32", "batch=32", "distillation.steps=2", "distillation.batch=4")
    few += ("distillation.batchnorm=frozen",)
    code, _, err = run_cli("compress", NETWORK, "--out", out, *settings(*few))
    assert code == 0, err
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["config"]["distillation"]["steps"] == 2 and report["distillation_loss"] > 0
    again = (
        "evaluate",
        NETWORK,
        "--weights",
        out,
        "--report",
        out.with_suffix(".json"),
        "--data",
        f"folder:{pictures}",
    )
    code, text, err = run_cli(*again)
    assert code == 0 and 0 <= accuracy(text)[0] <= 100, err


def test_no_batch_of_one_in_distillation(run_cli, tmp_path):
    code, _, err = run_cli("compress", NETWORK, "--out", tmp_path / "o.safetensors", "-p", "distillation.batch=1")
    assert code == 2 and "'distillation.batch'" in err


def test_short_settings_fit_every_method_and_give_way_to_what_is_given():
    assert set(short.SHORT) == set(METHODS)
    for name, method in METHODS.items():
        config = validate(method.config, from_text(method.config, short.with_short(name, {})), name)
        assert not short.SHORT[name] or config != method.config()
    assert short.with_short("frandi", {"recovery": "none", "synthesis.steps": "7"}) == {
        "recovery": "none", "synthesis.steps": "7", "synthesis.images": "64", "candidates": "100"
    }  # fmt: skip
