"""Write scikit-learn's digits in CIFAR-10's own format: pickled batches of 32×32 pictures in three channels.

    python recipes/make_cifar_digits.py [FOLDER]

FOLDER (``recipes/cifar-digits`` if none is named) gets ``cifar-10-batches-py``, as torchvision's CIFAR10 wants it, and
``checksums.txt``, the sha256 of each of its files. The same bytes every time.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

SEED = 0
TRAIN = 1500
BASE = "cifar-10-batches-py"


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Pickles as Python 2 did, which wrote the original batches: words and bytes are both its ``str``, flags are numbers."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def text(self, value: str | bytes) -> None:
        raw = value.encode("latin1") if isinstance(value, str) else value
        short = len(raw) < 256
        self.write((b"U" + bytes([len(raw)]) if short else b"T" + len(raw).to_bytes(4, "little")) + raw)
        self.memoize(value)

    def flag(self, value: bool) -> None:
        self.write(b"K" + bytes([value]))

    dispatch[str] = dispatch[bytes] = text
    dispatch[bool] = flag


def python2(value: dict[str, Any]) -> bytes:
    """A pickle as Python 2 and NumPy 1 wrote it."""
    target = BytesIO()
    Python2Pickler(target, protocol=2).dump(value)
    return target.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def write_cifar10(
    root: Path, train: tuple[NDArray[Any], NDArray[Any]], test: tuple[NDArray[Any], NDArray[Any]], names: list[str]
) -> Path:
    """Write pictures (n, 3, 32, 32) uint8 and their classes (n,) as CIFAR-10: five training batches, one test batch and the
    names, https://www.cs.toronto.edu/~kriz/cifar.html. Give the list of their sha256 sums."""
    folder = root / BASE
    folder.mkdir(parents=True, exist_ok=True)
    batches = [(f"data_batch_{k + 1}", f"training batch {k + 1} of 5", part) for k, part in enumerate(_fifths(*train))]
    for file, label, (pictures, classes) in [*batches, ("test_batch", "testing batch 1 of 1", test)]:
        rows = np.ascontiguousarray(pictures, np.uint8).reshape(len(classes), 3 * 32 * 32)
        files = [f"{names[code]}_{i:06}.png" for i, code in enumerate(classes)]
        batch = {"batch_label": label, "labels": [int(code) for code in classes], "data": rows, "filenames": files}
        (folder / file).write_bytes(python2(batch))
    meta = {"num_cases_per_batch": len(train[1]) // 5, "label_names": names, "num_vis": 3 * 32 * 32}
    (folder / "batches.meta").write_bytes(python2(meta))
    return write_sums(root)


def write_sums(root: Path) -> Path:
    """The sha256 of every batch, as ``sha256sum`` writes it in ``root``."""
    files = sorted((root / BASE).iterdir())
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {BASE}/{file.name}\n" for file in files]
    (root / "checksums.txt").write_text("".join(lines), encoding="utf-8")
    return root / "checksums.txt"


def _fifths(pictures: NDArray[Any], classes: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    return list(zip(np.array_split(pictures, 5), np.array_split(classes, 5), strict=True))


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The 1797 digits, each pixel of the 8×8 a square of 4×4, in an order drawn by ``SEED``."""
    bunch = load_digits()
    order = np.random.default_rng(SEED).permutation(len(bunch.target))
    small = np.round(bunch.images[order] * (255 / 16)).astype(np.uint8)
    large = small.repeat(4, axis=1).repeat(4, axis=2)
    return np.repeat(large[:, None], 3, axis=1), bunch.target[order]


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("cifar-digits")
    x, y = digits()
    write_cifar10(place, (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:]), [str(k) for k in range(10)])
    print(f"wrote {place}")
