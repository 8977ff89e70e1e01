"""torchvision's sets, in their genuine formats through torchvision's own classes; nothing is unpickled unchecked."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import inspect
import io
import json
import os
import pickle
import socket
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets
from torchvision.datasets import utils

from fuseline.component import Component, complete
from fuseline.data.dataset import prepare
from fuseline.data.sources import SOURCES, origin_key
from fuseline.data.split import split
from fuseline.data.vision_catalogue import LEFT_OUT, VISION_SETS
from fuseline.data.vision_sets import _careful, vision_set
from fuseline.errors import DataError, RecipeError
from fuseline.recipe import Data, Split, Target
from fuseline.store import Store
from tests.formats import python2, write_cifar10, write_emnist, write_mnist, write_qmnist, write_sums, write_usps

NAMES = [f"class {k}" for k in range(10)]
TRAIN, TEST = np.arange(20) % 10, np.arange(10)[::-1]


def drawn(classes: NDArray[Any], *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(len(classes)).integers(0, 256, (len(classes), *shape)).astype(np.uint8)


@pytest.fixture
def cifar(tmp_path: Path) -> dict[str, str]:
    """A small CIFAR-10 and the settings that read it."""
    sums = write_cifar10(tmp_path, (drawn(TRAIN, 3, 32, 32), TRAIN), (drawn(TEST, 3, 32, 32), TEST), NAMES)
    return {"name": "CIFAR10", "root": str(tmp_path), "checksums": str(sums)}


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.trace),))


def key(**settings: Any) -> str:
    return origin_key(complete(Component(name="torchvision", settings=settings), SOURCES, "data.source"))


# -------------------------------------------------------------------------------------------------------- the catalogue


def test_every_set_of_torchvision_is_a_source_or_left_out_for_a_reason() -> None:
    classes = {name for name in datasets.__all__ if inspect.isclass(getattr(datasets, name))}
    assert set(VISION_SETS) | set(LEFT_OUT) == classes
    assert not set(VISION_SETS) & set(LEFT_OUT)
    assert all(LEFT_OUT.values())


@pytest.mark.parametrize("name", VISION_SETS)
def test_torchvision_takes_the_arguments_of_every_part(tmp_path: Path, name: str) -> None:
    """In an empty folder a class that takes its arguments fails at the files; a wrong argument is a ValueError or TypeError."""
    chosen = VISION_SETS[name]
    for division in chosen.divisions.values():
        assert set(division.parts) in ({"train", "test"}, {""})
        for piece in (piece for pieces in division.parts.values() for piece in pieces):
            with pytest.raises((RuntimeError, OSError)):
                getattr(datasets, name)(tmp_path, **piece, **({"download": False} if chosen.download else {}))


@pytest.mark.parametrize("name", VISION_SETS)
def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path: Path, refusal: Callable[..., str], name: str) -> None:
    chosen = VISION_SETS[name]
    sentence = refusal(DataError, vision_set, name=name, root=str(tmp_path), split=next(iter(chosen.divisions)) or None)
    assert f"{name} is not there" in sentence
    assert ("download: true" in sentence) is chosen.download


@pytest.mark.parametrize(("name", "word"), [("CIFAR11", "'CIFAR10'"), ("LSUN", "unpickles"), ("ImageFolder", "image_folder")])
def test_another_set_is_refused(tmp_path: Path, refusal: Callable[..., str], name: str, word: str) -> None:
    assert word in refusal(RecipeError, vision_set, name=name, root=str(tmp_path))


@pytest.mark.parametrize(("name", "split", "word"), [("EMNIST", None, "letters"), ("DTD", "11", "10"), ("MNIST", "x", "remove")])
def test_a_variant_that_there_is_not_is_refused(
    tmp_path: Path, refusal: Callable[..., str], name: str, split: str | None, word: str
) -> None:
    assert word in refusal(RecipeError, vision_set, name=name, root=str(tmp_path), split=split)


# ------------------------------------------------------------------------------------------------------ genuine formats


def test_cifar10_comes_with_pictures_names_and_its_own_division(cifar: dict[str, str]) -> None:
    raw = vision_set(**cifar)
    assert raw.image is not None
    assert (raw.image.dtype, raw.image.shape) == (np.uint8, (30, 3, 32, 32))
    assert (raw.image == np.concatenate([drawn(TRAIN, 3, 32, 32), drawn(TEST, 3, 32, 32)])).all()
    assert raw.frame["target"].tolist() == [NAMES[k] for k in [*TRAIN, *TEST]]
    assert raw.frame["part"].tolist() == ["train"] * 20 + ["test"] * 10
    assert datasets.CIFAR10.meta["md5"] == "5ff9c542aee3614f3951f8cda6e48888", "the class itself is left as it was"


def test_a_batch_is_a_pickle_of_python_2(cifar: dict[str, str]) -> None:
    raw = Path(cifar["root"], "cifar-10-batches-py", "data_batch_1").read_bytes()
    assert all(type(name) is bytes for name in pickle.loads(raw, encoding="bytes"))
    assert all(type(name) is str for name in pickle.loads(raw, encoding="latin1"))


def test_cifar100_is_read_by_its_fine_classes(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for file, classes in (("train", TRAIN), ("test", TEST)):
        data = drawn(classes, 3, 32, 32).reshape(len(classes), -1)
        (folder / file).write_bytes(python2({"data": data, "fine_labels": classes.tolist(), "coarse_labels": [0] * len(data)}))
    (folder / "meta").write_bytes(python2({"fine_label_names": NAMES, "coarse_label_names": ["all"]}))
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  cifar-100-python/{file.name}" for file in folder.iterdir()]
    (tmp_path / "sums").write_text("\n".join(lines))
    raw = vision_set(name="CIFAR100", root=str(tmp_path), checksums=str(tmp_path / "sums"))
    assert raw.frame["target"].tolist() == [NAMES[k] for k in [*TRAIN, *TEST]]


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST", "USPS"])
def test_grey_digits_keep_every_pixel(tmp_path: Path, name: str) -> None:
    edge = 16 if name == "USPS" else 28
    train, test = (drawn(TRAIN, edge, edge), TRAIN), (drawn(TEST, edge, edge), TEST)
    if name == "EMNIST":
        write_emnist(tmp_path, train, test, "letters")
    elif name in ("QMNIST", "USPS"):
        {"QMNIST": write_qmnist, "USPS": write_usps}[name](tmp_path, train, test)
    else:
        write_mnist(tmp_path, train, test, name)
    raw = vision_set(name=name, root=str(tmp_path), split="letters" if name == "EMNIST" else None)
    assert raw.image is not None
    assert raw.image.shape == (30, 1, edge, edge)
    shown = np.concatenate([train[0], test[0]])
    assert np.abs(raw.image[:, 0].astype(int) - shown).max() <= (name == "USPS")  # it is rounded down from text
    codes = [*TRAIN, *TEST]
    names = ["N/A", *"abcdefghi"] if name == "EMNIST" else getattr(getattr(datasets, name), "classes", range(10))
    assert raw.frame["target"].tolist() == [names[k] for k in codes]
    assert raw.frame["part"].tolist() == ["train"] * 20 + ["test"] * 10


def picture(file: Path, value: int, shape: tuple[int, int] = (6, 8)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", shape, (value, value, value)).save(file)


def test_a_set_without_a_division_has_no_part(tmp_path: Path) -> None:
    for i, name in enumerate(["Forest", "River"]):
        picture(tmp_path / "eurosat" / "2750" / name / f"{name}_1.png", 10 * i)
    raw = vision_set(name="EuroSAT", root=str(tmp_path))
    assert raw.frame.to_dict("list") == {"target": ["Forest", "River"]}


def test_pictures_of_several_sizes_need_one(tmp_path: Path, refusal: Callable[..., str]) -> None:
    folder = tmp_path / "food-101"
    (folder / "meta").mkdir(parents=True)
    for part in ("train", "test"):
        files = {"soup": [f"soup/{part}1", f"soup/{part}2"], "pie": [f"pie/{part}1"]}
        (folder / "meta" / f"{part}.json").write_text(json.dumps(files))
        for i, file in enumerate(name for its in files.values() for name in its):
            picture(folder / "images" / f"{file}.jpg", 100, (6 + i, 8))
    assert "'size'" in refusal(DataError, vision_set, name="Food101", root=str(tmp_path))
    raw = vision_set(name="Food101", root=str(tmp_path), size=(4, 5))
    assert raw.image is not None
    assert raw.image.shape == (6, 3, 4, 5)
    assert (raw.image == 100).all()
    assert raw.frame["target"].tolist() == ["soup", "soup", "pie"] * 2


def test_rows_do_not_come_as_the_file_system_gives_them(tmp_path: Path) -> None:
    names = [f"/{word[0]}/{word}" for word in ("abbey", "bar", "cliff")]
    (tmp_path / "SUN397").mkdir()
    (tmp_path / "SUN397" / "ClassName.txt").write_text("\n".join(names))
    for i, name in enumerate(reversed(names)):
        for k in (2, 0, 1):
            picture(tmp_path / "SUN397" / name[1:] / f"sun_{k}.jpg", 80 * i + 10 * k)
    raw = vision_set(name="SUN397", root=str(tmp_path))
    assert raw.frame["target"].tolist() == ["abbey"] * 3 + ["bar"] * 3 + ["cliff"] * 3
    assert raw.image is not None
    assert raw.image[:, 0, 0, 0].tolist() == [160, 170, 180, 80, 90, 100, 0, 10, 20]


# ------------------------------------------------------------------------------------------------------------- security


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "official"])
def test_a_changed_pickle_is_not_opened(
    cifar: dict[str, str], tmp_path: Path, refusal: Callable[..., str], file: str, listed: bool
) -> None:
    (tmp_path / "cifar-10-batches-py" / file).write_bytes(pickle.dumps(Malicious(tmp_path / "trace")))
    settings = cifar if listed else {**cifar, "checksums": None}
    sentence = refusal(DataError, vision_set, **settings)
    assert not (tmp_path / "trace").exists()
    assert file in sentence if listed else "CIFAR10" in sentence


def test_the_malicious_pickle_would_have_left_a_trace(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Malicious(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_pickle_that_is_not_listed_is_not_opened(
    cifar: dict[str, str], tmp_path: Path, refusal: Callable[..., str], file: str
) -> None:
    (tmp_path / "cifar-10-batches-py" / file).write_bytes(pickle.dumps(Malicious(tmp_path / "trace")))
    sums = Path(cifar["checksums"])
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if not line.strip().endswith("/" + file)))
    sentence = refusal(DataError, vision_set, **cifar)
    assert file in sentence
    assert "not listed" in sentence
    assert not (tmp_path / "trace").exists()


def test_official_files_are_known_by_their_official_sums(cifar: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With no list of ours, torchvision's own md5 sums decide; here they are those of the small set."""
    folder = Path(cifar["root"], "cifar-10-batches-py")

    def md5(file: str) -> str:
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    for names in ("train_list", "test_list"):
        monkeypatch.setattr(datasets.CIFAR10, names, [[file, md5(file)] for file, _ in getattr(datasets.CIFAR10, names)])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": md5("batches.meta")})
    assert len(vision_set(name="CIFAR10", root=cifar["root"]).frame) == 30


@pytest.mark.parametrize("line", ["d41d8cd98f00b204e9800998ecf8427e  data_batch_1", "junk", "a" * 64])
def test_a_line_that_is_no_sha256_is_named(cifar: dict[str, str], refusal: Callable[..., str], line: str) -> None:
    with Path(cifar["checksums"]).open("a") as file:
        file.write(line + "\n")
    assert "checksums.txt, line 8" in refusal(DataError, vision_set, **cifar)


def test_every_listed_file_must_be_as_listed(tmp_path: Path, refusal: Callable[..., str]) -> None:
    write_mnist(tmp_path, (drawn(TRAIN, 28, 28), TRAIN), (drawn(TEST, 28, 28), TEST))
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    (tmp_path / "sums").write_text(f"{hashlib.sha256(images.read_bytes()).hexdigest()}  MNIST/raw/{images.name}\n")
    settings = {"name": "MNIST", "root": str(tmp_path), "checksums": str(tmp_path / "sums")}
    assert len(vision_set(**settings).frame) == 30
    changed = bytearray(images.read_bytes())
    changed[100] ^= 1
    images.write_bytes(changed)
    assert images.name in refusal(DataError, vision_set, **settings)
    images.unlink()
    assert images.name in refusal(DataError, vision_set, **settings)


def test_what_torch_load_would_open_needs_a_checksum(tmp_path: Path, refusal: Callable[..., str]) -> None:
    write_mnist(tmp_path, (drawn(TRAIN, 28, 28), TRAIN), (drawn(TEST, 28, 28), TEST))
    (tmp_path / "MNIST" / "processed").mkdir()
    for file in ("training.pt", "test.pt"):
        (tmp_path / "MNIST" / "processed" / file).write_bytes(pickle.dumps(Malicious(tmp_path / "trace")))
    assert "test.pt" in refusal(DataError, vision_set, name="MNIST", root=str(tmp_path))
    assert not (tmp_path / "trace").exists()


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], Path]]:
    """Let an archive lie on this machine's web server where torchvision fetches EuroSAT, and give the folder that it is for."""
    served = tmp_path / "served"
    served.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    def serve(archive: bytes) -> Path:
        (served / "EuroSAT.zip").write_bytes(archive)
        fetch = partial(utils.download_and_extract_archive, f"http://127.0.0.1:{server.server_port}/EuroSAT.zip")

        def download(self: Any) -> None:
            if not self._check_exists():
                fetch(download_root=self._base_folder)

        monkeypatch.setattr(datasets.EuroSAT, "download", download)
        return tmp_path / "root"

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield serve
        server.shutdown()
        thread.join()


def packed(**files: bytes) -> bytes:
    """A zip archive; ``__`` in a name stands for a folder, and ``UP`` for the one above."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("UP", ".."), content)
    return buffer.getvalue()


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 6), value).save(buffer, "png")
    return buffer.getvalue()


def test_a_set_is_downloaded_and_unpacked(fetched: Callable[[bytes], Path]) -> None:
    root = fetched(packed(**{"2750__Forest__a.png": png(7), "2750__River__b.png": png(9)}))
    raw = vision_set(name="EuroSAT", root=str(root), download=True)
    assert raw.frame["target"].tolist() == ["Forest", "River"]
    assert raw.image is not None
    assert raw.image[:, 0, 0, 0].tolist() == [7, 9]
    assert sorted(path.name for path in (root / "eurosat").iterdir()) == ["2750", "EuroSAT.zip"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"2750__Forest__a.png": png(7), "UP__UP__UP__escaped": b"x"}, "leads out of the folder"),
        ({"2750__Forest__a.png": png(7), "large": bytes(50 * 2**20)}, "more than 100 times"),
    ],
)
def test_a_hostile_archive_is_downloaded_and_not_unpacked(
    fetched: Callable[[bytes], Path], tmp_path: Path, refusal: Callable[..., str], files: dict[str, bytes], words: str
) -> None:
    root = fetched(packed(**files))
    assert words in refusal(DataError, vision_set, name="EuroSAT", root=str(root), download=True)
    assert not list(tmp_path.rglob("escaped"))
    assert [path.name for path in (root / "eurosat").iterdir()] == ["EuroSAT.zip"]


def test_torchvision_unpacks_by_our_functions_only_while_a_set_is_opened(tmp_path: Path) -> None:
    """By itself it unpacks without a bound."""
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        file.write(bytes(30 * 2**20))
    before = dict(utils._ARCHIVE_EXTRACTORS), dict(utils._COMPRESSED_FILE_OPENERS)
    with pytest.raises(DataError, match="more than 100 times"), _careful():
        utils.extract_archive(tmp_path / "a.gz", tmp_path)
    assert before == (utils._ARCHIVE_EXTRACTORS, utils._COMPRESSED_FILE_OPENERS)
    utils.extract_archive(tmp_path / "a.gz", tmp_path)
    assert (tmp_path / "a").stat().st_size == 30 * 2**20


def test_a_packed_file_that_would_be_large_is_not_read(tmp_path: Path, refusal: Callable[..., str]) -> None:
    write_usps(tmp_path, (drawn(TRAIN, 16, 16), TRAIN), (drawn(TEST, 16, 16), TEST))
    (tmp_path / "usps.t.bz2").write_bytes(bz2.compress(b"1 1:0.5\n" * 200_000))
    assert "usps.t.bz2: unpacked" in refusal(DataError, vision_set, name="USPS", root=str(tmp_path))
    (tmp_path / "usps.t.bz2").write_bytes(b"junk")
    assert "USPS can't be read" in refusal(DataError, vision_set, name="USPS", root=str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"junk", b"\0\0\x08\x03" + b"\0\0\0\x05" * 3])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, refusal: Callable[..., str], content: bytes) -> None:
    write_mnist(tmp_path, (drawn(TRAIN, 28, 28), TRAIN), (drawn(TEST, 28, 28), TEST))
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(content)
    assert "MNIST can't be read" in refusal(DataError, vision_set, name="MNIST", root=str(tmp_path))


# ------------------------------------------------------------------------------------------------------------- download


@pytest.fixture
def nowhere() -> str:
    """An address on this machine where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/"


def test_a_failed_download_is_one_sentence(
    tmp_path: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch, nowhere: str
) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", nowhere + "cifar-10-python.tar.gz")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [nowhere])
    for name in ("CIFAR10", "MNIST"):
        for ask in (vision_set, key):
            sentence = refusal(DataError, ask, name=name, root=str(tmp_path / name), download=True)
            assert f"{name} can't be downloaded" in sentence


@pytest.mark.parametrize("name", [name for name, chosen in VISION_SETS.items() if not chosen.download])
def test_what_torchvision_can_not_download_is_said(tmp_path: Path, refusal: Callable[..., str], name: str) -> None:
    assert "can't download" in refusal(DataError, vision_set, name=name, root=str(tmp_path), download=True)


# ---------------------------------------------------------------------------------------------------------- as a source


def test_the_key_follows_the_files_of_the_set_and_no_others(cifar: dict[str, str], tmp_path: Path) -> None:
    before = key(**cifar)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"the archive that it came in")
    assert key(**cifar) == before
    assert key(**cifar, size=16) != before
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(batch.read_bytes() + b".")
    assert key(**cifar) != before


def test_the_official_test_rows_stay_the_test_rows(cifar: dict[str, str], store: Store) -> None:
    spec = Split(rule="column", column="part", fusion=0.2, calibration=0.0)
    source = Component(name="torchvision", settings={**cifar})
    dataset, reused = prepare(Data(source=source, split=spec), {"y": Target(kind="classification", column="target")}, store)
    assert not reused
    assert dataset.schema.image == (3, 32, 32)
    result = split(dataset, spec)
    assert result.rows("test").tolist() == list(range(20, 30))
    assert set(result.rows("train", "fusion")) == set(range(20))


def test_the_digits_are_a_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.make_cifar_digits import TRAIN as COUNT
    from recipes.make_cifar_digits import digits

    x, y = digits()
    sums = write_cifar10(tmp_path, (x[:COUNT], y[:COUNT]), (x[COUNT:], y[COUNT:]), [str(k) for k in range(10)])
    raw = vision_set(name="CIFAR10", root=str(tmp_path), checksums=str(sums))
    assert raw.image is not None
    assert (raw.image == x).all()
    assert raw.frame["target"].tolist() == [str(k) for k in y]
    assert (raw.frame["part"] == "test").sum() == 297
    assert sums.read_bytes() == write_sums(tmp_path).read_bytes()
