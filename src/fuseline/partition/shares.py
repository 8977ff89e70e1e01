"""What a partition divides and what comes out of it, the rows held out for early stopping, and what can't be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuseline.data.dataset import Dataset
from fuseline.data.dealing import deal
from fuseline.errors import RecipeError

Rows = NDArray[np.int64]


def _none() -> Rows:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Pool:
    """The training rows to divide.

    Attributes:
        rows: positions in the data set (n,), ascending.
        strata: their stratum (n,): the class of the first target with exclusive classes, else one of a few quantiles; −1 where
            the target is missing.
        units: their unit (n,); rows of one unit are never parted.
        dataset: what the rows are rows of, for rules that look at classes, inputs or the group column.
    """

    rows: Rows
    strata: NDArray[np.int64]
    units: NDArray[np.int64]
    dataset: Dataset | None = None


@dataclass(frozen=True)
class Share:
    """What one replica of a member sees.

    Attributes:
        train: the rows to train on.
        holdout: its own held-out rows, for early stopping.
        judged: the rows that it is the one to judge out of fold.
        view: which inputs it sees, in the order of :func:`fuseline.partition.views.masks`; all, if empty.
        own: the class codes that it tells apart, of the first target with exclusive classes; all others are one class to it
            while it trains. All, if empty.
    """

    train: Rows
    holdout: Rows = field(default_factory=_none)
    judged: Rows = field(default_factory=_none)
    view: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    own: Rows = field(default_factory=_none)


Generators = Sequence[np.random.Generator]
Shares = list[list[Share]]


def hold_out(share: Share, pool: Pool, fraction: float, generator: np.random.Generator) -> Share:
    """Set ``fraction`` of a share's rows aside for early stopping, stratified, whole units, every copy of a drawn row."""
    distinct = np.unique(share.train)
    at = np.searchsorted(pool.rows, distinct)
    fraction = max(fraction, 1 / max(1, len(np.unique(pool.units[at]))))  # one unit at least
    aside = distinct[deal(pool.strata[at], pool.units[at], [1 - fraction, fraction], generator) == 1]
    return replace(share, train=share.train[~np.isin(share.train, aside)], holdout=aside)


def check_shares(shares: Shares, names: Sequence[str], targets: dict[str, NDArray[Any]], classes: dict[str, int]) -> None:
    """Refuse a partition that leaves a member without rows, or with one class only.

    Rows whose class is unknown say nothing about the classes. An expert's other classes count as one, as they do while it
    trains; its own are those of the first target in ``classes``.

    Args:
        targets: class codes of each target with exclusive classes (N,), −1 where unknown.
        classes: how many classes each of them has, in the recipe's order.
    """
    for name, replicas in zip(names, shares, strict=True):
        for share in replicas:
            if len(share.train) < 2:
                text = f"partition: member {name!r} would get {len(share.train) or 'no'} training rows"
                raise RecipeError(f"{text}; use fewer members or more data.")
            for i, (target, width) in enumerate(classes.items()):
                seen = _told_apart(np.asarray(targets[target])[share.train], share.own if i == 0 else _none())
                if width > 1 and seen < 2:
                    text = f"partition: member {name!r} would see {'one' if seen else 'no'} class of {target!r}"
                    raise RecipeError(f"{text}{' only' if seen else ''}; use another rule.")


def _told_apart(codes: NDArray[np.int64], own: Rows) -> int:
    known = np.unique(codes[codes >= 0])
    if not len(own):
        return len(known)
    mine = np.isin(known, own)
    return int(mine.sum()) + int(not mine.all())
