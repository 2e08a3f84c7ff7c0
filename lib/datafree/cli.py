"""The command line: each command mirrors one call of the library.

Here, and only here, the library's own modules are imported inside functions: a command loads what it needs and no more,
so that `datafree --help` is there at once.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from .errors import DataFreeError

Model = Annotated[str, typer.Argument(help="name of the network, for instance resnet20")]
Network = Annotated[
    str, typer.Argument(help="name of the network, for instance resnet20, or FILE.py:FUNCTION that builds your own")
]
Input = Annotated[str, typer.Option("--input", help="of your own network: shape of one image, for instance 3x224x224")]
Report = Annotated[Path | None, typer.Option(help="the .json of `datafree compress`, where --weights is its output")]
Weights = Annotated[
    Path | None, typer.Option(help="a name of `datafree inputs`, or a state dict; default: the embedded weights")
]
Data = Annotated[
    str, typer.Option(help="cifar10-stub, a name of `datafree inputs`, one of torchvision's sets, or folder:PATH")
]
Numbers = Annotated[str, typer.Option(help="three numbers: the input normalisation of --weights")]
Root = Annotated[Path | None, typer.Option(help="where torchvision's data sets lie")]
Out = Annotated[Path, typer.Option(help="the .safetensors file to write; its record goes beside it, as .json")]
Profile = Annotated[str, typer.Option(help="smoke, book, reduced, paper, or another file of notebooks/profiles")]
Device = Annotated[str, typer.Option(help="cpu, cuda or mps; auto: a CUDA card if there is one")]
Settings = Annotated[list[str] | None, typer.Option("-p", help="NAME=VALUE, as often as you like; replaces a default")]


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """A mistake is one sentence and exit code 2; Ctrl-C and `kill` clean up, say how to go on, and exit with 130."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in ENDING if _ends(number)}
    try:
        yield
    except DataFreeError as error:
        typer.echo(f"datafree: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("datafree: interrupted; run the same command again to go on.", err=True)
        raise typer.Exit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that end a command, whether or not what started it (`&` in a script) ignores them."""


def _ends(number: signal.Signals) -> bool:
    """Not a hang-up that `nohup` has switched off."""
    return number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN


class Commands(typer.core.TyperGroup):
    """The commands in the order they are written below, each within `one_sentence`."""

    def invoke(self, ctx):
        with one_sentence():
            return super().invoke(ctx)


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def datafree():
    """Compress trained CNNs without their training data."""
    from .book import caches

    caches.keep_here()


# Networks: train, compress, evaluate ------------------------------------------------------------------------------


@app.command()
def train(
    model: Model,
    out: Out,
    parameter: Settings = None,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: torch's own choice", min=1)] = None,
):
    """Train a network and write its weights and record; an interrupted run goes on where it stopped.

    For instance -p data=cifar10 -p epochs=30; a name that is not known makes it list them all.
    """
    import torch

    from .config import from_text, pairs, validate
    from .core import training

    if threads:
        torch.set_num_threads(threads)
    values = pairs(parameter or [])
    if "model" in values:
        raise DataFreeError("the network is the first argument of `datafree train`; leave out '-p model=...'.")
    config = validate(training.TrainConfig, {"model": model} | from_text(training.TrainConfig, values), "train")
    record = training.train(config, out, device)
    score = f"{record['test_miou']:.2f} % mean IoU" if "test_miou" in record else f"{record['test_top1']:.2f} % top-1"
    typer.echo(f"{model}: {score} on {record['test_images']} test images -> {out}")


@app.command()
def compress(
    model: Network,
    out: Out,
    method: Annotated[str, typer.Option(help="one of those that `datafree methods` lists")] = "knowledge_within",
    parameter: Settings = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="the papers' numbers of images and steps; may take long")
    ] = False,
    weights: Weights = None,
    input: Input = "",
    mean: Numbers = "",
    std: Numbers = "",
    device: Device = "auto",
):
    """Compress a network by one of the papers: in under two minutes, or with the papers' settings (--paper).

    `datafree methods NAME` lists what -p can set; a dot leads into a group: -p recovery.steps=100.
    Beside the weights come the report as .json, which reads them back, and as .html, for people.
    """
    from . import api, files
    from .book import report_page
    from .config import from_text, pairs, validate
    from .core import short
    from .core.register import method_named
    from .networks import own

    files.weights_name(out)
    cls, given = method_named(method).config, pairs(parameter or [])
    config = validate(cls, from_text(cls, given if paper else short.with_short(method, given)), "compress")
    shape = _shape(model, input)
    network = _network(model, weights, mean, std, device)
    result = api.compress(network, config, shape=shape)
    if own.is_own(model):
        result.report.update(mean=own.numbers(mean), std=own.numbers(std))
    api.save_compressed(result, out)
    report_page.write(model, result, out.with_suffix(".html"))
    report = result.report
    typer.echo(
        f"{model}: {report['bytes_float']:.0f} -> {report['bytes']:.0f} bytes, "
        f"{report['macs_float'] / report['macs']:.2f} times fewer operations, in {report['seconds']:.0f} s -> {out}"
    )


def _network(model: str, weights: Path | None, mean: str, std: str, device: str):
    """The network of those names on a device, with the normalisation of its input if one is given."""
    from .config import triple
    from .networks import own
    from .networks.weights import load_network

    if own.is_own(model):
        return own.load_own(model, weights, device=device, mean=own.numbers(mean), std=own.numbers(std))
    settings = {name: value for name, text in (("mean", mean), ("std", std)) if (value := triple(text))}
    return load_network(model, weights, device=device, **settings)


def _compressed(model: str, weights: Path | None, report: Path, device: str):
    """What `datafree compress` wrote, read back."""
    from . import api
    from .networks import own

    if own.is_own(model) and report.is_file():
        said = api.read_report(report)
        own.join_zoo(model, said.get("mean"), said.get("std"))
    return api.load_compressed(model, weights, report, device=device)


def _shape(model: str, input: str) -> tuple[int, int, int]:
    """The shape of one image: that of a network of the zoo, or the one given for the reader's own."""
    from .networks import own
    from .networks.zoo import image_shape

    if own.is_own(model) != bool(input):
        raise DataFreeError(
            "--input is the shape of one image of your own network, FILE.py:FUNCTION; give both, or neither."
        )
    return own.shape_of(input) if input else image_shape(model)


@app.command()
def export(
    model: Network,
    out: Annotated[Path, typer.Option(help="an .onnx file, for onnxruntime, or a .pt2 file, for torch.export.load")],
    weights: Weights = None,
    report: Report = None,
    input: Input = "",
    mean: Numbers = "",
    std: Numbers = "",
):
    """Write a network, float or compressed, as a file that runs without this library."""
    from . import export as exporting

    network = _compressed(model, weights, report, "cpu") if report else _network(model, weights, mean, std, "cpu")
    exporting.export(network, out, _shape(model, input))
    typer.echo(f"{model}: {out.stat().st_size} bytes -> {out}")


@app.command()
def methods(name: Annotated[str, typer.Argument(help="one method; without it all are listed")] = ""):
    """List the methods of `datafree compress`, or what one of them can be told by -p."""
    from . import api
    from .core.register import method_named

    if name:
        typer.echo("\n".join(_settings(method_named(name).config)))
        return
    for each in api.METHODS.values():
        typer.echo(f"{each.name}: {each.about} ({each.paper})")


def _settings(cls, prefix: str = "") -> Iterator[str]:
    """A line for each setting of a configuration, those of groups behind a dot."""
    from .config import group_of

    for name, field in cls.model_fields.items():
        about = f"  ({field.description})" if field.description else ""
        group = group_of(cls, name)
        if group is None or field.default is None:
            yield f"  {prefix}{name} = {field.default}{about}"
        if group is not None:
            yield from _settings(group, f"{prefix}{name}.")


@app.command()
def evaluate(
    model: Network,
    weights: Weights = None,
    mean: Numbers = "",
    std: Numbers = "",
    report: Report = None,
    input: Input = "",
    data: Data = "cifar10-stub",
    root: Root = None,
    device: Device = "auto",
):
    """Top-1 and top-5 accuracy of a network, float or compressed, on real test images; mean IoU where pixels have labels."""
    from . import api
    from .data.sources import load_images
    from .networks.zoo import image_size

    network = _compressed(model, weights, report, device) if report else _network(model, weights, mean, std, device)
    size = _shape(model, input)[1:] if input else image_size(model)
    images = load_images(data, "test", root=root, size=size, device=device)
    names = {"top1": "top-1", "top5": "top-5", "mean_iou": "mean IoU"}
    found = ", ".join(f"{names[name]} {value:.2f} %" for name, value in api.evaluate(network, images).items())
    typer.echo(f"{model}: {found} on {len(images)} images")


@app.command()
def inputs(name: Annotated[str, typer.Argument(help="of one input; without it all are listed")] = ""):
    """List the data and weights known by name and whether they are in the cache; or tell all about one, after a check."""
    from . import inputs as known

    if name:
        typer.echo("\n".join(f"{label}: {value}" for label, value in known.details(name).items()))
        return
    typer.echo(f"cache: {known.cache()} (DATAFREE_CACHE chooses another)")
    for row in known.overview():
        typer.echo("  ".join(row).rstrip())


# Notebooks and the book -------------------------------------------------------------------------------------------


@app.command()
def synthesize(
    scheme: Annotated[str, typer.Option(help="gaussian, inception, bns or bns_inception")] = "bns",
    profile: Profile = "book",
    seed: int = 0,
    parameter: Settings = None,
    device: Device = "auto",
):
    """Make the images that 02_kw_calibration and other chapters read; a set that was interrupted is completed."""
    from .book import chapters, parameters
    from .config import pairs

    config = parameters.resolve("02_kw_calibration", profile, pairs(parameter or []), seed, device)
    net = chapters.network(config)
    made = chapters.calibration_images(net, config, scheme)
    typer.echo(f"{len(made)} images of scheme {made.name} -> {chapters.images_path(net, config, scheme)}")


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="a notebook of notebooks/, with or without .ipynb")],
    profile: Profile = "book",
    seed: int = 0,
    parameter: Settings = None,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="the executed notebook")] = None,
    record: Annotated[Path | None, typer.Option(help="the record")] = None,
    timeout: Annotated[int | None, typer.Option(help="seconds a cell may take", min=1)] = None,
    bar: Annotated[bool, typer.Option(help="show a progress bar")] = True,
):
    """Execute one notebook with checked parameters; write it and its record, or nothing."""
    from .book.run import run_notebook
    from .config import pairs

    given = pairs(parameter or [])
    if ".py:" not in given.get("model", ".py:"):
        from .networks.zoo import known_network  # needs torch, so only where a name is to be looked up

        known_network(given["model"])
    paths = run_notebook(notebook, profile, seed, given, device, out, record, timeout, bar)
    typer.echo("\n".join(str(path) for path in paths))


@app.command()
def build(
    goal: Annotated[str, typer.Argument(help="book, notebooks, images or audit")] = "book",
    profile: Profile = "book",
    cores: Annotated[
        int | None, typer.Option(help="processor cores to use, a notebook each; default: all", min=1)
    ] = None,
    seeds: Annotated[int, typer.Option(help="of an audit: seeds 0, 1, ...", min=1)] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be made")] = False,
    executor: Annotated[str, typer.Option(help="local, or slurm: the runs as jobs of a cluster")] = "local",
):
    """Bring the book (or a part of it) up to date: only what changed is made again."""
    from .book import build as book

    book.build(goal, profile, cores, seeds, dry_run, executor)
    if goal == "book" and not dry_run:
        typer.echo(f"The book is ready: {book.HTML / 'index.html'}")


@app.command(hidden=True)
def equations(page: Annotated[Path, typer.Argument(help="the page to write")]):
    """Write the page that says where each equation is computed, tested and used."""
    from .book.pages import write_equations

    write_equations(page)


@app.command(hidden=True)
def stage(notebooks: list[str], profile: Profile = "book"):
    """Put together the sources of the book in _build/src."""
    from .book import build as book

    book.stage(profile, notebooks)


@app.command(hidden=True)
def render(profile: Profile = "book"):
    """Render _build/src to _build/html."""
    from .book import build as book

    book.render(profile)


@app.command()
def pdf(out: Annotated[Path | None, typer.Option(help="default: _build/book.pdf")] = None):
    """Print the rendered book into one PDF, with a Chromium of this machine."""
    from .book import pdf as printed

    typer.echo(f"The book is printed: {printed.print_book(out or printed.BOOK)}")


@app.command()
def student(
    out: Annotated[Path | None, typer.Option(help="default: _build/student, or _build/instructor")] = None,
    solved: Annotated[bool, typer.Option("--solved", help="with all solutions and tests, for who teaches")] = False,
):
    """Write the chapters without the solutions of their exercises, to hand out; code exercises are in nbgrader's form."""
    from .book import student as handing

    written = handing.hand_out(out or (handing.TEACHER if solved else handing.PLACE), solved)
    typer.echo(f"{len(written)} chapters {'with' if solved else 'without'} solutions are in {written[0].parent}")


@app.command()
def pack(out: Annotated[Path | None, typer.Option(help="default: _build/datafree-crate.zip")] = None):
    """Pack ledger, records, notebooks and their schemas into one archive (an RO-Crate) for others to check."""
    from .evidence import pack as packing

    typer.echo(f"The evidence is packed: {packing.pack(out or packing.PLACE)}")


@app.command(hidden=True)
def publish(profile: Profile = "book"):
    """Copy fresh records to book/records, where none of today is committed."""
    from .book.build import publish_records

    typer.echo(f"{publish_records(profile)} fresh records are in book/records")


@app.command(hidden=True)
def shorten(
    folder: Annotated[Path, typer.Argument(help="where the copies go")],
    profile: Annotated[str, typer.Option(help="whose parameters they get")] = "smoke",
):
    """Copy every notebook with the parameters of a short profile, for nbval."""
    from .book.run import short_copies

    typer.echo(f"{len(short_copies(folder, profile))} notebooks -> {folder}")


# Evidence, and the checkout ---------------------------------------------------------------------------------------


ledgers = typer.Typer(no_args_is_help=False)
app.add_typer(ledgers, name="ledger")


@ledgers.callback(invoke_without_command=True)
def ledger(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="only look for what is broken in the records; exit 1")] = False,
    pages: Annotated[Path | None, typer.Option(help="also write the book's pages to this folder")] = None,
):
    """Join all records with the papers' claims: _build/ledger.json and _build/ledger.csv."""
    if context.invoked_subcommand:
        return
    from .book.pages import write_pages
    from .evidence import claims
    from .evidence import ledger as book

    if check:
        said = book.problems()
        for sentence in said:
            typer.echo(sentence, err=True)
        if said:
            raise typer.Exit(1)
        typer.echo(f"every record can be read, and every criterion is for one of the {len(claims.claims())} claims.")
        return
    rows = book.build()
    book.write(rows, book.ours())
    if pages:
        write_pages(pages)
    apart = book.counts([row for row in rows if book.on_a_stand_in(row)])
    for paper, by_state in book.counts(rows).items():
        typer.echo(f"{paper}: " + ", ".join(_count(state, n, apart.get(paper)) for state, n in by_state.items() if n))


def _count(state: str, number: int, apart: dict[str, int] | None) -> str:
    """A number of claims in a state, and how many of them were measured on a stand-in."""
    on_stand_ins = (apart or {}).get(state)
    return f"{number} {state}" + (f" ({on_stand_ins} on a stand-in)" if on_stand_ins else "")


@ledgers.command()
def verify(
    claim: Annotated[str, typer.Argument(help="a claim of the ledger, for instance kw-c19")],
    profile: Profile = "book",
    seed: int = 0,
):
    """Run the chapter of a claim again and compare with the committed record of that run; exit 1 on a flip."""
    from . import files
    from .book.run import run_notebook
    from .evidence import compare
    from .evidence.criteria import criterion_of
    from .evidence.record import read

    chapter = criterion_of(claim).chapter
    before = compare.committed(chapter, profile, seed)
    place = files.BUILD / "runs" / f"{chapter}-verify"
    again = {"out": place.with_suffix(".ipynb"), "record": place.with_suffix(".json")}
    _, after = run_notebook(chapter, profile, seed, **again, progress=True)
    _tell(before, read(after))


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="a record, or a notebook's name: committed against fresh")],
    second: Annotated[str, typer.Argument(metavar="[B]", help="another record; default: the committed one")] = "",
    profile: Profile = "book",
    seed: int = 0,
):
    """Compare two records of one chapter: verdicts that flip, numbers that moved, what differs; exit 1 on a flip."""
    from .evidence import compare as evidence

    _tell(*evidence.pair(first, second, profile, seed))


def _tell(first: dict, second: dict) -> None:
    """Print how two records differ; exit 1 where a verdict flips beyond noise."""
    from .evidence import compare as evidence

    found = evidence.compare(first, second)
    typer.echo("\n".join(evidence.lines(found)))
    if not found.agrees:
        raise typer.Exit(1)


@app.command()
def doctor(seal: Annotated[bool, typer.Option(help="write data_stubs/SHA256SUMS anew")] = False):
    """Examine the checkout: Python, packages, embedded files, disk, left-overs; exit 1 if something is broken."""
    from . import files
    from .book.doctor import check_up

    if seal:
        typer.echo(f"wrote {files.seal()}")
    elif not check_up():
        raise typer.Exit(1)


def main() -> None:
    """The program `datafree`."""
    app(prog_name="datafree")


if __name__ == "__main__":
    main()
