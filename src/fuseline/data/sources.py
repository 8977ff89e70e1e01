"""Data sources: each reads files or a bundled set into columns and, where there are pictures, an image array.

To add one: write a function whose keyword-only parameters are its settings and that gives a :class:`Raw`, and add it to
``SOURCES``; if it reads more than the one file that ``path`` names, add to ``CONTENTS`` what its content is known by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import pandas as pd

from fuseline.component import Component
from fuseline.data import pictures, vision_sets
from fuseline.data.files import Raw, existing, from_csv, from_npz, from_parquet
from fuseline.store import content_key, sha256_of


def from_sklearn(*, name: Literal["breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine"], images: bool = True) -> Raw:
    """A set bundled with scikit-learn, with its own column names; ``digits`` comes as 8×8 pictures unless ``images`` is false.

    Classes are named where scikit-learn names them.
    """
    from sklearn import datasets  # seconds, which other sources and a run in which everything is reused do without

    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    frame: pd.DataFrame = bunch.frame.copy()
    if name in ("breast_cancer", "iris", "wine"):
        frame["target"] = np.asarray(bunch.target_names, dtype=str)[bunch.target]
    image = None
    if name == "digits" and images:
        frame = frame[["target"]]
        image = bunch.images.astype(np.uint8)[:, None]
    return Raw(frame, f"scikit-learn's {name}", image)


def origin_key(source: Component) -> str:
    """The hash of a source's settings and of all that it reads: its files, or scikit-learn's version for a bundled set.

    Raises:
        DataError: names the file that is not there.
    """
    return content_key(source=source, content=CONTENTS.get(source.name, _file)(source.settings))


def _file(settings: Mapping[str, Any]) -> str:
    return sha256_of(existing(settings["path"]))


SOURCES: dict[str, Callable[..., Raw]] = {
    "sklearn": from_sklearn,
    "npz": from_npz,
    "parquet": from_parquet,
    "csv": from_csv,
    "image_folder": pictures.image_folder,
    "torchvision": vision_sets.vision_set,
}

CONTENTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "sklearn": lambda _: version("scikit-learn"),
    "image_folder": pictures.content,
    "torchvision": vision_sets.content,
}
