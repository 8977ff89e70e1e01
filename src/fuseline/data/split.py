"""The split: one role per row, which drives every stage.

No two roles share a row, an id or a content: where a rule's own unit (a group, a time, a column) would put rows of equal
inputs into different roles, the copies in the less protected roles are left out of everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fuseline.data.dataset import Dataset
from fuseline.data.dealing import deal
from fuseline.errors import DataError
from fuseline.recipe import Split as SplitSpec
from fuseline.terms import Role

ROLES: tuple[Role, ...] = ("train", "fusion", "calibration", "test")
"""From the least to the most protected; a row's role is its position here."""

EXCLUDED = -1
Roles = NDArray[np.int8]


@dataclass(frozen=True)
class Split:
    """A role per row (N,), or ``EXCLUDED``."""

    roles: Roles

    def rows(self, *roles: Role) -> NDArray[np.int64]:
        """The rows of some roles, in the order of the data."""
        return np.flatnonzero(np.isin(self.roles, [ROLES.index(role) for role in roles]))

    @property
    def excluded(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.roles == EXCLUDED)


def split(dataset: Dataset, spec: SplitSpec) -> Split:
    """Give each row its role.

    Raises:
        DataError: a role has no rows, or the training or test rows lack a class.
    """
    result = Split(_exclude_copies(SPLITS[spec.rule](dataset, spec), dataset.content))
    _check(dataset, spec, result)
    return result


def units(dataset: Dataset, spec: SplitSpec) -> NDArray[np.int64]:
    """Numbers (N,) of the rows that must stay together in any division: those of equal content, those of one group, and
    groups that share a content."""
    content = np.unique(dataset.content, return_inverse=True)[1]
    if spec.rule not in ("stable", "group") or dataset.split_column is None:
        return content.astype(np.int64)
    group = np.unique(dataset.split_column, return_inverse=True)[1]
    nodes = int(group.max()) + 1
    links = coo_array((np.ones(len(group)), (group, nodes + content)), shape=(nodes + int(content.max()) + 1,) * 2)
    return np.asarray(connected_components(links, directed=False)[1][group], np.int64)


def strata(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The stratum of each of some rows (n,): the class of the first target that has classes, else one of ten quantiles of the
    first target with a value among those rows, or −1 where that is missing. No other row's target has any part in it."""
    for name, schema in dataset.schema.targets.items():
        if schema.exclusive:
            return np.asarray(dataset.targets[name])[rows]
    for name, schema in dataset.schema.targets.items():
        if schema.kind != "multilabel":
            return _by_quantile(np.asarray(dataset.targets[name])[rows])
    labels = np.nan_to_num(next(iter(dataset.targets.values()))[rows])
    return np.unique(labels, axis=0, return_inverse=True)[1].astype(np.int64).reshape(len(rows))


def _by_quantile(values: NDArray[np.float64]) -> NDArray[np.int64]:
    known = values[~np.isnan(values)]
    levels = np.linspace(0, 1, max(1, min(10, len(known) // 10)) + 1)[1:-1]
    edges = np.quantile(known, levels) if len(known) else np.empty(0)
    return np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right")).astype(np.int64)


def _stable(dataset: Dataset, spec: SplitSpec) -> Roles:
    """By ``hash(seed, unit)``: no row's role depends on the other rows, so none changes as the data grow."""
    column = dataset.split_column
    keys = (str(g).encode() for g in column) if column is not None else (c.tobytes() for c in dataset.content)
    return _by_position(_positions(keys, spec.seed), spec)


def _positions(keys: Iterable[bytes], seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each key, by hash: evenly spread, and the same whatever other keys there are."""
    salt = seed.to_bytes(8, "little")
    digests = b"".join(hashlib.blake2b(key, digest_size=8, salt=salt).digest() for key in keys)
    return np.frombuffer(digests, np.uint64) / 2.0**64


def _stratified(dataset: Dataset, spec: SplitSpec) -> Roles:
    """Exact shares overall and nearly so in each stratum; rows of equal content move as one."""
    shares = [spec.train, spec.fusion, spec.calibration, spec.test]
    return deal(strata(dataset, np.arange(len(dataset))), units(dataset, spec), shares, np.random.default_rng(spec.seed)).astype(
        np.int8
    )


def _group(dataset: Dataset, spec: SplitSpec) -> Roles:
    """Whole groups (those that share a content as one) in random order, until each role has its share of the rows."""
    unit = units(dataset, spec)
    sizes = np.bincount(unit)
    order = np.random.default_rng(spec.seed).permutation(len(sizes))
    middle = np.empty(len(sizes))
    middle[order] = (np.cumsum(sizes[order]) - sizes[order] / 2) / len(unit)
    return _by_position(middle, spec)[unit]


def _time(dataset: Dataset, spec: SplitSpec) -> Roles:
    """The oldest rows to train on, the newest to test on; rows of one time share a role."""
    assert dataset.split_column is not None
    _, when, counts = np.unique(dataset.split_column, return_inverse=True, return_counts=True)
    position = (np.cumsum(counts) - counts / 2) / len(when)
    edges = np.cumsum([spec.train, spec.fusion, spec.calibration])
    return np.searchsorted(edges, position, side="right").astype(np.int8)[when]


def _column(dataset: Dataset, spec: SplitSpec) -> Roles:
    """The column itself names each row's role.

    If it names ``train`` and ``test`` only, as a public set's own division does, the test rows stay the test rows, and
    ``fusion`` and ``calibration`` are shares of the rows marked ``train``, taken by the hash of their content as the rule
    ``stable`` does; the share ``test`` counts for nothing. A column that names fusion or calibration rows is followed as it is.
    """
    assert dataset.split_column is not None
    for row, value in enumerate(dataset.split_column):
        if value not in ROLES:
            where = f"{dataset.origin}: split column {spec.column!r}, row {row}"
            raise DataError(f"{where}: {str(value)!r} is not a role; the roles are {', '.join(ROLES)}.")
    roles = np.array([ROLES.index(value) for value in dataset.split_column], np.int8)
    if _names_own_shares(dataset):
        return roles
    position = _positions((c.tobytes() for c in dataset.content), spec.seed)
    taken = 2 - np.searchsorted(np.cumsum([spec.calibration, spec.fusion]), position, side="right")  # the protected first
    return np.where(roles == ROLES.index("train"), taken, roles).astype(np.int8)


def _names_own_shares(dataset: Dataset) -> bool:
    """Whether a column of roles names fusion or calibration rows itself."""
    assert dataset.split_column is not None
    return not set(dataset.split_column.tolist()) <= {"train", "test"}


def _by_position(position: NDArray[np.float64], spec: SplitSpec) -> Roles:
    """Roles by a number in [0, 1): the protected roles come first, so that a larger share never takes rows from them."""
    edges = np.cumsum([spec.test, spec.calibration, spec.fusion])
    return (3 - np.searchsorted(edges, position, side="right")).astype(np.int8)


def _exclude_copies(roles: Roles, content: NDArray[np.uint64]) -> Roles:
    _, same = np.unique(content, return_inverse=True)
    highest = np.full(same.max() + 1, -1, np.int8)
    np.maximum.at(highest, same, roles)
    return np.where(roles == highest[same], roles, EXCLUDED).astype(np.int8)


def _check(dataset: Dataset, spec: SplitSpec, result: Split) -> None:
    shares = {"train": spec.train, "fusion": spec.fusion, "calibration": spec.calibration, "test": spec.test}
    named = spec.rule == "column" and _names_own_shares(dataset)
    for role in ROLES:
        wanted = role in ("train", "test") or (shares[role] > 0 and not named)
        if len(result.rows(role)) == 0 and wanted:
            raise DataError(
                f"{dataset.origin}: no row fell to the role {role!r} (its share is {shares[role]:.2f} of {len(dataset)} rows); "
                "use more rows, a larger share or the rule 'stratified'."
            )
    needed: tuple[Role, ...] = ("train", "test") if len(result.rows("test")) else ("train",)
    for name, schema in dataset.schema.targets.items():
        for role in needed if schema.exclusive else ():
            there = np.unique(dataset.targets[name][result.rows(role)])
            for code, label in enumerate(schema.classes):
                if code not in there:
                    raise DataError(
                        f"{dataset.origin}: target {name!r}: no row of class {label!r} fell to the role {role!r}; the split is "
                        "too small for its classes: use more rows, a larger share or the rule 'stratified'."
                    )


SPLITS: dict[str, Callable[[Dataset, SplitSpec], Roles]] = {
    "stable": _stable,
    "stratified": _stratified,
    "group": _group,
    "time": _time,
    "column": _column,
}
