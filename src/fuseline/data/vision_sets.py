"""torchvision's classification sets, read by torchvision's own classes.

Nothing is unpickled before its checksum was compared. CIFAR-10 and CIFAR-100 are pickles: their classes compare the md5 of
each file with the official one before they open it, with and without a download. Where a set's files are not the official
ones, ``checksums`` names what they must be, by sha256: md5 would let whoever writes both the files and the list swap a harmless
file for a twin of the same sum later on.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import PIL
from PIL import Image

from fuseline.component import unknown
from fuseline.data.archives import OPENERS, refuse_swelling, unpack_tar, unpack_zip
from fuseline.data.checksums import md5_of_known, read_sums, verify
from fuseline.data.decoding import Size, stack
from fuseline.data.files import Raw
from fuseline.data.vision_catalogue import LEFT_OUT, VISION_SETS, Division
from fuseline.errors import DataError, RecipeError, first_line
from fuseline.store import content_key, locked, sha256_of

PICKLED = ("CIFAR10", "CIFAR100")


def vision_set(
    *, name: str, root: str, split: str | None = None, size: Size = None, download: bool = False, checksums: str | None = None
) -> Raw:
    """A classification set of ``torchvision.datasets``, pictures (N, C, H, W) as bytes.

    The columns are ``target``, the class by name where the set names its classes and else by number, and, where the set has
    a division of its own, ``part``: ``train`` or ``test``, as the split's rule ``column`` takes it. A validation part counts
    as train; where test rows have no classes in public, it is the test part instead.

    Args:
        name: the class in torchvision, like CIFAR10 or MNIST.
        root: the folder that torchvision puts the set into.
        split: which of a set's variants to take: EMNIST's split, DTD's partition, FGVCAircraft's annotation level, …
        size: height and width to which every picture is brought, or one number for both; without it, all must have one size.
        download: whether torchvision may download what is not there.
        checksums: a list of sha256 sums, as ``sha256sum`` writes it in ``root``: each listed file is compared before anything
            is opened, and with it CIFAR-10 and CIFAR-100 may be other than the official ones.

    Raises:
        RecipeError: there is no such set or variant.
        DataError: the set is not there, can't be downloaded, or a file is not what its checksum says.
    """
    chosen = VISION_SETS[_known(name)]
    opened = [(part, piece) for part, pieces in _open(name, root, split, download, checksums).items() for piece in pieces]
    rows = [(piece, row) for _, piece in opened for row in (_order(chosen.order(piece)) if chosen.order else range(len(piece)))]
    words = {id(piece): _words(getattr(piece, chosen.names, None)) for _, piece in opened}
    targets: list[Any] = [None] * len(rows)

    def load(i: int) -> Image.Image:
        piece, row = rows[i]
        picture, code = piece[row]
        targets[i] = code if code is None else words[id(piece)].get(int(code), int(code))
        return picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))

    if not rows:
        raise DataError(f"{root}: {name} has no pictures.")
    image = stack(len(rows), load, lambda i: f"{root}: {name}, row {i}", size, chosen.channels)
    frame = pd.DataFrame({"target": targets})
    parts = [part for part, piece in opened for _ in range(len(piece))]
    return Raw(frame.assign(part=parts) if any(parts) else frame, f"{root} ({name})", image)


def content(settings: Mapping[str, Any]) -> str:
    """The hash of all files of the set, fetched now if it may be downloaded, and of the versions of what decodes them."""
    import torchvision  # type: ignore[import-untyped]

    name, root, split, download = (settings[key] for key in ("name", "root", "split", "download"))
    if download:
        _open(name, root, split, download, settings["checksums"])
    files = _files(name, Path(root), _division(name, split))
    sums = {file.relative_to(root).as_posix(): sha256_of(file) for file in files}
    return content_key(files=sums, decoders=[PIL.__version__, torchvision.__version__])


def _known(name: str) -> str:
    if name in LEFT_OUT:
        raise RecipeError(f"data.source.torchvision.name: {name} is no source, since {LEFT_OUT[name]}.")
    if name not in VISION_SETS:
        raise RecipeError(f"data.source.torchvision.name: {unknown(name, VISION_SETS)}")
    return name


def _division(name: str, split: str | None) -> Division:
    """The division that is asked for."""
    chosen = VISION_SETS[_known(name)]
    listed = ", ".join(key for key in chosen.divisions if key)
    if split is None and not chosen.must_choose:
        return next(iter(chosen.divisions.values()))
    if split is None or split not in chosen.divisions:
        text = f"choose from {listed}" if listed else f"{name} has one division only, so remove it"
        raise RecipeError(f"data.source.torchvision.split: {split!r} is none of {name}'s; {text}.")
    return chosen.divisions[split]


def _open(name: str, root: str, split: str | None, download: bool, checksums: str | None) -> dict[str, list[Any]]:
    """The opened pieces of each part, everything compared first that has a checksum."""
    from torchvision import datasets

    chosen, division = VISION_SETS[_known(name)], _division(name, split)
    folder = Path(root)
    if download and not chosen.download:
        raise DataError(f"{root}: torchvision can't download {name}; put its files there and remove 'download: true'.")
    files = [] if download else _files(name, folder, division)
    sums = read_sums(checksums) if checksums else {}
    verify(folder, sums)
    for file in (file for pattern in chosen.unpickled for file in sorted(folder.glob(pattern))):
        if file.relative_to(folder).as_posix() not in sums:
            raise DataError(
                f"{file}: torchvision would unpickle this file unchecked; remove it, or list its sha256 in 'checksums'."
            )
    kind = getattr(datasets, name)
    if checksums and name in PICKLED:
        kind = _with_sums(kind, folder, sums)
    extra = {"download": download} if chosen.download else {}
    try:
        for file in files:
            if file.suffix in OPENERS:  # the class would read it as a whole
                refuse_swelling(file)
        with locked(folder / ".fuseline.lock") if download else nullcontext(), _careful():
            return {part: [kind(root, **piece, **extra) for piece in pieces] for part, pieces in division.parts.items()}
    except Exception as error:  # each class has its own way to fail at what is missing, damaged or out of reach
        what = "can't be downloaded or read" if download else "can't be read"
        remedy = "fetch its files again" + (", or name their sha256 sums by 'checksums'" if name in PICKLED else "")
        raise DataError(f"{root}: {name} {what} ({first_line(error).rstrip(':')}); {remedy}.") from None


def _files(name: str, root: Path, division: Division) -> list[Path]:
    """All files of a set, in the order of their names."""
    found = []
    for pattern in division.files:
        places = sorted(root.glob(pattern))
        if not places:
            can = "set 'download: true' in data.source, or put" if VISION_SETS[name].download else "put"
            raise DataError(f"{root / pattern}: {name} is not there; {can} its files there (see data.source's 'root').")
        found += [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*")))]
    return [file for file in found if file.is_file()]


def _with_sums(kind: Any, root: Path, sums: dict[str, str]) -> Any:
    """A CIFAR class that takes the listed files for the official ones. It compares md5 sums right before it unpickles; those
    are taken from the very bytes whose sha256 was compared here."""

    def known(file: str) -> str:
        return md5_of_known(root, f"{kind.base_folder}/{file}", sums)

    lists = {key: [[file, known(file)] for file, _ in getattr(kind, key)] for key in ("train_list", "test_list")}
    return type(kind.__name__, (kind,), {**lists, "meta": {**kind.meta, "md5": known(kind.meta["filename"])}})


@contextmanager
def _careful() -> Iterator[None]:
    """While a set is fetched, archives are unpacked by our own functions: bounded, and into their folder alone. The pickles of
    CIFAR, written by NumPy 1, may say 0 for False."""
    from torchvision.datasets import utils  # type: ignore[import-untyped]

    with (
        _replaced(utils._ARCHIVE_EXTRACTORS, {".tar": partial(_unpack, unpack_tar), ".zip": partial(_unpack, unpack_zip)}),
        _replaced(utils._COMPRESSED_FILE_OPENERS, {suffix: partial(_bounded, suffix) for suffix in OPENERS}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message=".*align should be passed")
        yield


@contextmanager
def _replaced(table: dict[str, Any], entries: Mapping[str, Any]) -> Iterator[None]:
    before = dict(table)
    table.update(entries)
    try:
        yield
    finally:
        table.update(before)


def _unpack(unpack: Callable[[Path, Path], None], packed: str | Path, folder: str | Path, *_: Any) -> None:
    unpack(Path(packed), Path(folder))


def _bounded(suffix: str, packed: str | Path, mode: str) -> IO[bytes]:
    refuse_swelling(Path(packed))
    opened: IO[bytes] = OPENERS[suffix](packed, mode)
    return opened


def _order(keys: list[Any]) -> list[int]:
    return sorted(range(len(keys)), key=lambda row: keys[row])


def _words(classes: Any) -> dict[int, str]:
    """The name of each code; synonyms are joined, and two classes of one name are told apart by their codes.

    >>> _words([("tench", "Tinca tinca"), ("crane",), ("crane",)])
    {0: 'tench, Tinca tinca', 1: 'crane (1)', 2: 'crane (2)'}
    """
    if classes is None:
        return {}
    names = sorted(classes, key=classes.__getitem__) if isinstance(classes, Mapping) else classes
    words = [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]
    often = Counter(words)
    return {code: f"{word} ({code})" if often[word] > 1 else word for code, word in enumerate(words)}
