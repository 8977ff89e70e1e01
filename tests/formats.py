"""Small data sets in their genuine formats on disk. Tests get at them by ``from tests.formats import …``."""

from __future__ import annotations

import bz2
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.make_cifar_digits import python2, write_cifar10, write_sums

__all__ = ["idx", "python2", "write_cifar10", "write_emnist", "write_mnist", "write_qmnist", "write_sums", "write_usps"]

Rows = tuple[NDArray[Any], NDArray[Any]]
"""Pictures (n, H, W) uint8 and their classes (n,)."""


def idx(array: NDArray[Any]) -> bytes:
    """An array in the idx format of MNIST: two zeros, a type, the number of axes, their lengths and the numbers, all big-endian
    (Y. LeCun, C. Cortes and C. Burges, http://yann.lecun.com/exdb/mnist/)."""
    kind, stored = (8, ">u1") if array.dtype == np.uint8 else (12, ">i4")
    return bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(stored).tobytes()


def _write(folder: Path, files: dict[str, NDArray[Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in files.items():
        (folder / name).write_bytes(idx(array))


def write_mnist(root: Path, train: Rows, test: Rows, name: str = "MNIST") -> None:
    files = {}
    for part, (pictures, classes) in (("train", train), ("t10k", test)):
        files[f"{part}-images-idx3-ubyte"] = pictures
        files[f"{part}-labels-idx1-ubyte"] = classes.astype(np.uint8)
    _write(root / name / "raw", files)


def write_emnist(root: Path, train: Rows, test: Rows, split: str) -> None:
    files = {}
    for part, (pictures, classes) in (("train", train), ("test", test)):
        files[f"emnist-{split}-{part}-images-idx3-ubyte"] = pictures
        files[f"emnist-{split}-{part}-labels-idx1-ubyte"] = classes.astype(np.uint8)
    _write(root / "EMNIST" / "raw", files)


def write_qmnist(root: Path, train: Rows, test: Rows) -> None:
    """Its labels are eight numbers, of which the first is the class."""
    files = {}
    for part, (pictures, classes) in (("train", train), ("test", test)):
        files[f"qmnist-{part}-images-idx3-ubyte"] = pictures
        files[f"qmnist-{part}-labels-idx2-int"] = np.pad(classes[:, None], ((0, 0), (0, 7))).astype(np.int32)
    _write(root / "QMNIST" / "raw", files)


def write_usps(root: Path, train: Rows, test: Rows) -> None:
    """libsvm's text: a class from 1 on, and pixels from −1 to 1."""
    for name, (pictures, classes) in (("usps.bz2", train), ("usps.t.bz2", test)):
        values = pictures.reshape(len(classes), -1) / 255 * 2 - 1
        lines = [
            f"{code + 1} " + " ".join(f"{j + 1}:{value:.9f}" for j, value in enumerate(row)) + "\n"
            for code, row in zip(classes, values, strict=True)
        ]
        (root / name).write_bytes(bz2.compress("".join(lines).encode()))
