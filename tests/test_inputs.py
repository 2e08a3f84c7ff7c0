"""Inputs by name: taken from the cache, fetched where there is a network, and never used unchecked."""

import hashlib
import http.server
import io
import json
import os
import pickle
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import yaml
from conftest import SHARED_DATA, with_statistics, write_images
from PIL import Image

from datafree import files, inputs, torchvision_shim
from datafree.book import chapters, parameters
from datafree.core.metrics import outputs
from datafree.data.images import pixels_hash
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.evidence.record import portable
from datafree.networks.weights import load_network
from datafree.networks.zoo import build_network

UNREACHABLE = "http://127.0.0.1:9/w.bin"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def register(tmp_path, monkeypatch):
    """Give the library a registry and a cache of its own; the function adds an entry and returns its place."""
    entries = {}
    monkeypatch.setenv("DATAFREE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "READ", {})

    def add(name, **fields):
        usual = {"kind": "data", "about": "a", "file": name, "megabytes": 1, "licence": "MIT", "source": "some author"}
        entries[name] = usual | fields
        text = yaml.safe_dump(entries)
        path = tmp_path / f"registry-{sha256(text.encode())[:8]}.yaml"
        path.write_text(text)
        monkeypatch.setattr(inputs, "REGISTRY", path)
        return inputs.place(name)

    return add


@pytest.fixture
def little(register):
    """A registered folder with a train and a test split, 2 classes, 12 images; and where it lies."""
    place = register("little", sha256="0" * 64)
    write_images(place / "train", 4)
    write_images(place / "test", 2, seed=1)
    register("little", sha256=inputs.listing_hash(place), count=12, splits=["train", "test"])
    return place


@pytest.fixture
def served():
    """A web server on this machine: path -> content, and what was asked of it."""
    content, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path in content else 404)
            self.end_headers()
            self.wfile.write(content.get(self.path, b"no such page"))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", content, asked
    server.shutdown()
    server.server_close()


def left(cache) -> list[str]:
    """Everything in the cache but locks and notes of checks."""
    found = (p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file() or ".fetching" in p.name)
    return sorted(f for f in found if not f.endswith(".lock") and not f.startswith(".checked"))


# --- what is known ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", inputs.registry())
def test_every_entry_says_where_it_comes_from_and_under_which_licence(name):
    entry = inputs.entry(name)
    assert len(entry.licence) >= 3 and len(entry.source) > 10 and entry.about.endswith(".")
    assert entry.url.startswith("https://") or not entry.url
    assert bool(entry.unpack) == bool(entry.archive)
    assert (entry.kind == "weights") == bool(entry.model and entry.mean and entry.std)
    assert bool(entry.count) == (entry.kind == "data")


def test_the_entries_that_the_profiles_name_are_known():
    named = [
        (name, values[name])
        for profile in ("paper", "reduced", "cifar100", "imagenet")
        for values in parameters.load_profile(profile).values()
        for name in ("weights", "natural", "imagenet")
        if values.get(name) not in (None, parameters.ASK, "torchvision")
    ]
    assert len(named) > 10
    assert all(value in inputs.names("weights" if name == "weights" else "data") for name, value in named)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        DataFreeError, match=r"input 'cifar01' is not known \(did you mean 'cifar10[0]?'\?\); known: aka"
    ):
        inputs.find("cifar01")
    with pytest.raises(DataFreeError, match=r"data set 'cifar11' is not known \(did you mean 'cifar10[0]?'\?\)"):
        load_images("cifar11")
    with pytest.raises(
        DataFreeError, match=r"'akamaster/resnet4' does not exist \(did you mean 'akamaster/resnet44'\?\)"
    ):
        load_network("resnet44", "akamaster/resnet4", mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(DataFreeError, match="data 'akamaster/resnet44' is not known"):
        inputs.entry("akamaster/resnet44", "data")


@pytest.mark.parametrize(
    "wrong", [{"sha256": "12"}, {"licence": ""}, {"url": "somewhere"}, {"kind": "model"}, {"mean": [0.5]}, {"size": 3}]
)
def test_an_entry_that_is_not_whole_is_refused(register, wrong):
    with pytest.raises(DataFreeError, match=f"input w.*'?{next(iter(wrong))}"):
        register("w", **({"sha256": "0" * 64} | wrong))


# --- a file -----------------------------------------------------------------------------------------------------------


def test_a_file_in_the_cache_is_found_and_noted_under_its_name(register):
    place = register("author/w", sha256=sha256(b"weights"), file="weights/w.bin")
    place.parent.mkdir(parents=True)
    place.write_bytes(b"weights")
    assert inputs.find("author/w") == place
    assert {"author/w": sha256(b"weights")} == files.READ


@pytest.mark.parametrize("url", ["", UNREACHABLE])
@pytest.mark.parametrize("content", [b"", b"weight", b"weights!"])
def test_a_damaged_file_is_named_and_not_used(register, content, url):
    place = register("w", sha256=sha256(b"weights"), url=url)
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    with pytest.raises(DataFreeError) as error:
        inputs.find("w")
    for part in (str(place), sha256(content), sha256(b"weights"), "some author" if not url else "remove it"):
        assert part in str(error.value)
    assert files.READ == {} and place.read_bytes() == content, "the file is left for its owner to look at"


def test_a_missing_file_that_nobody_publishes_is_asked_for(register):
    place = register("w", sha256=sha256(b"weights"))
    with pytest.raises(DataFreeError) as error:
        inputs.find("w")
    for part in ("'w' is not in the cache", str(place), sha256(b"weights"), "some author"):
        assert part in str(error.value)
    assert str(error.value).count("\n") == 0 and files.READ == {}


def test_a_folder_where_a_file_belongs_is_refused_and_the_other_way_round(register):
    register("w", sha256="0" * 64).mkdir(parents=True)
    with pytest.raises(DataFreeError, match="is a folder where a file was expected"):
        inputs.find("w")
    register("d", sha256="0" * 64, count=1).write_text("")
    with pytest.raises(DataFreeError, match="is a file where a folder was expected"):
        inputs.find("d")


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_the_hash_of_a_folder_is_that_of_its_listing(little):
    paths = sorted((p.relative_to(little).as_posix(), p) for p in little.rglob("*.png"))
    lines = "".join(f"{sha256(path.read_bytes())}  {name}\n" for name, path in paths)
    assert inputs.listing_hash(little) == sha256(lines.encode())
    assert inputs.find("little") == little and {"little": inputs.listing_hash(little)} == files.READ


CHANGES = {
    "extra": (lambda folder: (folder / "test" / "dark" / "99.png").write_bytes(b"x"), "holds 13 files, expected 12"),
    "missing": (lambda folder: (folder / "test" / "dark" / "00.png").unlink(), "holds 11 files, expected 12"),
    "changed": (lambda folder: (folder / "test" / "dark" / "00.png").write_bytes(b"x"), "has SHA-256"),
    "renamed": (lambda folder: (folder / "test" / "dark").rename(folder / "test" / "grey"), "has SHA-256"),
}


@pytest.mark.parametrize("before", ["not yet read", "read before"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_is_not_the_registered_one_is_refused(little, change, before):
    if before == "read before":
        inputs.find("little")
        files.READ.clear()
    CHANGES[change][0](little)
    with pytest.raises(DataFreeError, match=f"'{little}' of input 'little' {CHANGES[change][1]}"):
        load_images("little")
    assert files.READ == {}


def test_hidden_files_do_not_count(little):
    (little / ".complete").write_text("")
    (little / ".cache").mkdir()
    (little / ".cache" / "x.png").write_text("")
    assert inputs.find("little") == little


@pytest.fixture
def readings(monkeypatch):
    """The folders that were read whole."""
    done, real = [], inputs.listing_hash
    monkeypatch.setattr(inputs, "listing_hash", lambda folder, *rest: done.append(folder) or real(folder, *rest))
    return done


def test_a_folder_is_read_whole_only_once(little, readings):
    for _ in range(3):
        inputs.find("little")
    assert len(readings) == 1
    os.utime(little / "test" / "dark" / "00.png", ns=(0, 0))
    inputs.find("little")
    assert len(readings) == 2, "another time of a file: look again"


def test_a_new_hash_in_the_registry_is_looked_at(little, register, readings):
    inputs.find("little")
    register("little", sha256="0" * 64, count=12)
    with pytest.raises(DataFreeError, match=f"expected {'0' * 64}"):
        inputs.find("little")


def test_a_cache_that_cannot_be_written_is_checked_each_time(little, readings):
    (little.parent / ".checked").write_text("in the way of notes")
    for _ in range(2):
        assert inputs.find("little") == little
    assert len(readings) == 2


def test_pixels_count_where_an_encoder_may_differ(register):
    place = register("p", sha256="0" * 64)
    write_images(place, 2)
    register("p", sha256=inputs.listing_hash(place, True), count=4, by_pixels=True)
    path = place / "dark" / "00.png"
    with Image.open(path) as image:
        pixels = np.array(image)
    before = path.read_bytes()
    Image.fromarray(pixels).save(path, compress_level=0)
    assert path.read_bytes() != before and inputs.find("p") == place
    pixels[0, 0, 0] += 1
    Image.fromarray(pixels).save(path)
    with pytest.raises(DataFreeError, match="has SHA-256"):
        inputs.find("p")
    path.write_bytes(b"no image")
    with pytest.raises(DataFreeError, match="00.png' cannot be read"):
        inputs.find("p")


# --- fetching ---------------------------------------------------------------------------------------------------------


def test_what_is_published_is_fetched_once(register, served):
    base, content, asked = served
    content["/w.bin"] = b"weights"
    place = register("author/w", sha256=sha256(b"weights"), url=f"{base}/w.bin", file="weights/w.bin")
    for _ in range(2):
        assert inputs.find("author/w").read_bytes() == b"weights"
    assert asked == ["/w.bin"] and left(inputs.cache()) == ["weights/w.bin"]
    assert place.stat().st_size == 7 and {"author/w": sha256(b"weights")} == files.READ


def test_without_a_network_it_is_said_what_must_be_put_where(register):
    place = register("w", sha256=sha256(b"weights"), url=UNREACHABLE)
    with pytest.raises(DataFreeError) as error:
        inputs.find("w")
    for part in (UNREACHABLE, "could not be fetched", str(place), sha256(b"weights"), "some author"):
        assert part in str(error.value)
    assert str(error.value).count("\n") == 0 and left(inputs.cache()) == [] and files.READ == {}


@pytest.mark.parametrize("page", ["another file", "none"])
def test_another_file_at_the_address_is_not_kept(register, served, page):
    base, content, _ = served
    if page == "another file":
        content["/w.bin"] = b"something else"
    register("w", sha256=sha256(b"weights"), url=f"{base}/w.bin")
    with pytest.raises(DataFreeError, match="could not be fetched"):
        inputs.find("w")
    assert left(inputs.cache()) == [] and files.READ == {}


def test_several_at_once_fetch_once(register, served):
    base, content, asked = served
    content["/w.bin"] = os.urandom(1_000_000)
    place = register("w", sha256=sha256(content["/w.bin"]), url=f"{base}/w.bin")
    with ThreadPoolExecutor(6) as several:
        found = list(several.map(lambda _: inputs.find("w").read_bytes(), range(12)))
    assert set(found) == {content["/w.bin"]} and asked == ["/w.bin"] and left(inputs.cache()) == [place.name]


def test_several_at_once_read_a_folder(little):
    with ThreadPoolExecutor(6) as several:
        assert set(several.map(inputs.find, ["little"] * 12)) == {little}
    assert len(list((little.parent / ".checked").iterdir())) == 1


CLASSES = [b"cat", b"dog"]


@pytest.fixture(scope="module")
def archive():
    """Bytes of an archive as CIFAR-10's: five batches and a test batch of four images each, and its arrays by split."""
    rng, held = np.random.default_rng(0), {}
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    batches = {
        name: {b"data": rng.integers(0, 256, (4, 3072), np.uint8), b"labels": rng.integers(0, 2, 4).tolist()}
        for name in names
    }
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        for name, content in {**batches, "batches.meta": {b"label_names": CLASSES}}.items():
            packed = pickle.dumps(content)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(packed)
            tar.addfile(member, io.BytesIO(packed))
        folder = tarfile.TarInfo("cifar-10-batches-py")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    for split, parts in (("train", names[:5]), ("test", names[5:])):
        pixels = np.concatenate([batches[n][b"data"] for n in parts]).reshape(-1, 3, 32, 32)
        held[split] = pixels, np.concatenate([batches[n][b"labels"] for n in parts])
    return whole.getvalue(), held


def published(register, served, archive, **changes):
    base, content, _ = served
    content["/c.tar.gz"] = archive
    entry = {"count": 24, "by_pixels": True, "unpack": "cifar", "splits": ["train", "test"]}
    return register("c", url=f"{base}/c.tar.gz", archive=sha256(archive), **entry, **changes)


def test_an_archive_becomes_a_folder_with_the_same_images(register, served, archive):
    packed, held = archive
    place = published(register, served, packed, sha256="0" * 64)
    with pytest.raises(DataFreeError, match="'c' has SHA-256") as error:
        inputs.find("c")
    assert left(inputs.cache()) == [], "a folder that is not the registered one is not kept"
    right = str(error.value).split("has SHA-256 ")[1][:64]

    assert published(register, served, packed, sha256=right) == place
    for split, (pixels, labels) in held.items():
        images = load_images("c", split)
        by_class = np.argsort(labels, kind="stable")  # a folder's order: class by class
        assert images.name == f"c/{split}" and images.classes == ["cat", "dog"]
        assert torch.equal(images.pixels, torch.from_numpy(pixels[by_class]))
        assert images.labels.tolist() == labels[by_class].tolist()
    assert {"c": right} == files.READ


def test_torchvision_reads_the_same_images_from_the_archive(register, served, archive, tmp_path, monkeypatch):
    packed, _ = archive
    torchvision_shim.install()
    from torchvision.datasets import CIFAR10, cifar

    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(tmp_path, filter="data")
    meta = tmp_path / "cifar-10-batches-py" / "batches.meta"
    meta.write_bytes(pickle.dumps({"label_names": [name.decode() for name in CLASSES]}))
    for part in meta.parent.iterdir():
        content = pickle.loads(part.read_bytes())
        part.write_bytes(pickle.dumps({k if isinstance(k, str) else k.decode(): v for k, v in content.items()}))
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    theirs = CIFAR10(tmp_path, train=True)

    place = inputs.UNPACKERS["cifar"](_written(tmp_path / "c.tar.gz", packed), tmp_path / "unpacked")
    ours = load_images(f"folder:{place}", "train")
    order = np.argsort(theirs.targets, kind="stable")
    assert np.array_equal(ours.pixels.permute(0, 2, 3, 1).numpy(), theirs.data[order])
    assert ours.labels.tolist() == np.array(theirs.targets)[order].tolist()


def _written(path, content: bytes):
    path.write_bytes(content)
    return path


# --- networks and images ----------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(register):
    """A registered ResNet-20 with convolutions on its shortcuts and torchvision's names, and the network itself."""
    torch.manual_seed(0)
    net = with_statistics(
        build_network("resnet20", classes=7, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), projection=True)
    )
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("normalize.")}
    state = {k.replace(".shortcut.", ".downsample.").replace("linear.", "fc."): v for k, v in state.items()}
    place = inputs.cache() / "w.pth"
    place.parent.mkdir()
    torch.save(state, place)
    register(
        "author/net", kind="weights", file="w.pth", sha256=sha256(place.read_bytes()), model="resnet20",
        keys="torchvision_resnet", mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4],
    )  # fmt: skip
    return net


def test_registered_weights_bring_structure_and_normalisation(foreign):
    net, images = load_network("resnet20", "author/net"), load_images("cifar10-stub").per_class(1)
    assert torch.equal(outputs(net, images), outputs(foreign, images)) and not net.training
    assert "author/net" in files.READ and "w.pth" not in files.READ


def test_a_saved_network_keeps_its_kind_of_shortcut(foreign, tmp_path):
    torch.save(foreign.state_dict(), tmp_path / "own.pt")
    images = load_images("cifar10-stub").per_class(1)
    assert torch.equal(outputs(load_network("resnet20", tmp_path / "own.pt"), images), outputs(foreign, images))


def test_registered_weights_fit_one_network_and_one_normalisation(foreign):
    with pytest.raises(DataFreeError, match="'author/net' are of a 'resnet20', not of a 'resnet32'"):
        load_network("resnet32", "author/net")
    with pytest.raises(DataFreeError, match="come with their normalisation, another than the one given"):
        load_network("resnet20", "author/net", mean=(0.1,) * 3, std=(0.2, 0.3, 0.4))
    with pytest.raises(DataFreeError, match="expected 0000"):
        load_network("resnet20", "author/net", sha256="0" * 64)
    same = load_network("resnet20", "author/net", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    assert same.linear.out_features == 7


def test_registered_images_are_those_of_their_folder(little):
    images, again = load_images("little", "train"), load_images(f"folder:{little}", "train")
    assert images.name == "little/train" and pixels_hash(images) == pixels_hash(again)
    assert len(load_images("little", "test", limit=2)) == 2 and load_images("little", size=6).pixels.shape[-1] == 6


def test_a_split_that_there_is_not_is_not_replaced_by_another(register):
    place = register("only", sha256="0" * 64)
    write_images(place, 1)
    register("only", sha256=inputs.listing_hash(place), count=2, splits=["test"])
    assert len(load_images("only", "test")) == 2
    with pytest.raises(DataFreeError, match="'only' has no split 'train'; it has test"):
        load_images("only", "train")


def test_a_few_classes_keep_the_numbers_of_all(register):
    place = register("few", sha256="0" * 64)
    write_images(place, 2)
    register("few", sha256=inputs.listing_hash(place), count=4, labels={"dark": 7, "light": 801})
    images = load_images("few")
    assert images.labels.tolist() == [7, 7, 801, 801] and len(images.classes) == 1000
    assert images.classes[7] == "dark" and images.classes[801] == "light"


def test_street_scenes_have_a_label_for_each_pixel(register):
    place, rng = register("camvid", sha256="0" * 64), np.random.default_rng(0)
    masks = rng.integers(0, 12, (3, 6, 8), np.uint8)
    for folder in ("test", "testannot"):
        (place / folder).mkdir(parents=True)
    for k, mask in enumerate(masks):
        Image.new("RGB", (8, 6), (50 * k,) * 3).save(place / "test" / f"{k}.jpg")
        Image.fromarray(mask).save(place / "testannot" / f"{k}.png")
    register("camvid", sha256=inputs.listing_hash(place), count=6, splits=["train", "test"])
    images = load_images("camvid")
    assert images.pixels.shape == (3, 3, 6, 8) and len(images.classes) == 11
    assert torch.equal(images.labels, torch.from_numpy(np.where(masks == 11, -1, masks.astype(np.int8))))
    assert load_images("camvid", limit=2, size=4).labels.shape == (2, 4, 4)
    wide = load_images("camvid", size=(3, 4))
    assert wide.pixels.shape == (3, 3, 3, 4) and wide.labels.shape == (3, 3, 4)
    assert wide.pixels[:, 0].float().mean((1, 2)).tolist() == pytest.approx([0, 50, 100], abs=3)
    with pytest.raises(DataFreeError, match="cropped to a square; give its side"):
        load_images("cifar10-stub", size=(3, 4))
    with pytest.raises(DataFreeError, match="size is \\(0, 4\\)"):
        load_images("camvid", size=(0, 4))


# --- records and commands ---------------------------------------------------------------------------------------------


def test_a_name_is_no_path_of_one_machine():
    assert portable("akamaster/resnet44") == "akamaster/resnet44"
    assert portable("akamaster/resnet45") == "PATH/resnet45"


def test_commands_with_inputs_by_name_hold_no_path():
    given = {"model": "resnet56", "weights": "akamaster/resnet56", "data": "cifar10"}
    config = parameters.resolve("02_kw_calibration", "book", given)
    command = chapters.command("02_kw_calibration", config)
    assert "-p weights=akamaster/resnet56" in command and "-p data=cifar10" in command and "PATH" not in command
    for notebook in ("04_kw_correspondence", "06_lw_quantization"):
        config = parameters.resolve(notebook, "reduced")
        assert chapters.command(notebook, config) == f"datafree run {notebook} --profile reduced --seed 0"


def test_a_record_keeps_the_registered_names(little):
    chapter = chapters.begin("02_kw_calibration", parameters.resolve("02_kw_calibration", "smoke").model_dump())
    images = load_images("little", "test")
    chapter.share(("share",), torch.ones(len(images)), images)
    kept = chapter.record()["inputs"]
    assert kept["little"] == inputs.entry("little").sha256
    assert kept[f"little/test, {len(images)} images"] == pixels_hash(images)


def test_the_command_lists_what_there_is(little, register, run_cli):
    register("absent", sha256="0" * 64, licence="CC0")
    code, out, err = run_cli("inputs")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0 and not err and str(inputs.cache()) in rows["cache:"]
    assert " yes " in rows["little"] and "MIT" in rows["little"]
    assert " no " in rows["absent"] and "CC0" in rows["absent"]


def test_the_command_tells_all_about_one(little, run_cli):
    code, out, _ = run_cli("inputs", "little")
    for part in ("some author", "MIT", inputs.entry("little").sha256, str(little), "yes, with the right SHA-256"):
        assert part in out
    (little / "test" / "dark" / "00.png").unlink()
    code, out, _ = run_cli("inputs", "little")
    assert code == 0 and "in the cache: no: " in out and "holds 11 files" in out
    code, _, err = run_cli("inputs", "litle")
    assert code == 2 and "did you mean 'little'?" in err


# --- the shared inputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, entry in inputs.registry().items() if not entry.by_pixels])
def test_the_shared_inputs_are_the_registered_ones(shared, name):
    if not inputs.place(name).exists():
        pytest.skip(f"skipped: '{name}' is not among the shared inputs")
    assert inputs.find(name).exists()


def test_the_shared_sheets_of_cifar100_are_the_registered_images(shared):
    """The listing as the helper script's folder would give it, without writing 60,000 files."""
    folder = SHARED_DATA / "cifar100"
    if not (folder / "labels.json").is_file():
        pytest.skip("skipped: the sheets of CIFAR-100 are not among the shared inputs")
    known, lines = json.loads((folder / "labels.json").read_text()), {}
    for split in ("train", "test"):
        sheets = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.glob(f"{split}-*.webp"))]
        tiles = np.concatenate([s.reshape(50, 32, 50, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3) for s in sheets])
        for place, (tile, label) in enumerate(zip(tiles, known[split]["fine"], strict=True)):
            lines[f"{split}/{known['classes'][label]}/{place:05d}.png"] = sha256(b"(32, 32)" + tile.tobytes())
    listing = "".join(f"{lines[name]}  {name}\n" for name in sorted(lines))
    assert sha256(listing.encode()) == inputs.entry("cifar100").sha256


def test_a_shared_network_for_cifar100_is_whole(shared):
    if not inputs.place("chenyaofo/cifar100_resnet20").exists():
        pytest.skip("skipped: this network is not among the shared inputs")
    net = load_network("resnet20", "chenyaofo/cifar100_resnet20")
    assert net.linear.out_features == 100 and len(net.layer2[0].shortcut) == 2
    assert net.normalize.mean.flatten().tolist() == pytest.approx([0.5070, 0.4865, 0.4409])
