"""The bank: what every member says of every row, from which everything behind it is computed.

Shapes: M members, N rows of the data, C classes, labels, quantiles or 1, D features. Per target ``values`` (M, N, C) and, for
a regression, ``variances`` (M, N, 1); per member ``features`` (N, D), its replicas' side by side. All float32 and memory-mapped.
Rows that a member must not be judged on are NaN: its training rows, but for those that a replica judges out of fold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from fuseline.data.dataset import Dataset
from fuseline.data.schema import TargetSchema
from fuseline.data.split import Split
from fuseline.disk import reserve
from fuseline.fusion.combine import Outputs
from fuseline.fusion.inputs import plain
from fuseline.models.network import Said, mean_said
from fuseline.partition import Rows, Share
from fuseline.store import Store, code_version, content_key, read_json, write_json

Floats = NDArray[np.floating[Any]]

BLOCK = 1 << 20
"""At most so many numbers of a block of rows: 8 MB in float64, near to what caches hold. One row is always read whole."""


@dataclass(frozen=True)
class BankedMember:
    """A member's name, its replicas' keys and folders in the store, and their shares."""

    name: str
    keys: list[str]
    folders: list[Path]
    shares: list[Share]


@dataclass(frozen=True)
class Bank:
    """A stored bank."""

    key: str
    folder: Path
    members: list[str]
    costs: list[tuple[float, float]]
    """Each member's microseconds per row and bytes, all its replicas together."""

    @classmethod
    def open(cls, folder: Path) -> Bank:
        meta = read_json(folder / "bank.json")
        return cls(folder.name, folder, meta["members"], [(cost[0], cost[1]) for cost in meta["costs"]])

    def values(self, target: str) -> Floats:
        return _read(self.folder / f"values-{target}.npy")

    def outputs(
        self,
        dataset: Dataset,
        target: str,
        rows: Rows,
        needs: AbstractSet[str] = frozenset(),
        members: slice = slice(None),
    ) -> Outputs:
        """What the members, or a slice of them, say of some rows, in float64; with their ``features`` side by side and the rows'
        own ``inputs``, as far as they are needed. For few rows: see :meth:`blocks` for many."""
        variances = self.folder / f"variances-{target}.npy"
        positions = range(len(self.members))[members] if "features" in needs else ()
        features = [_read(self.folder / f"features-{m}.npy")[rows] for m in positions]
        arrays = {name: torch.from_numpy(np.asarray(array)[rows]) for name, array in dataset.inputs.items() if "inputs" in needs}
        return Outputs(
            values=_take(self.values(target)[members], rows),
            variances=_take(_read(variances)[members], rows) if variances.exists() else None,
            features=torch.from_numpy(np.hstack(features, dtype=np.float64)) if features else None,
            inputs=plain(dataset.schema, arrays) if arrays else None,
            task=dataset.schema.targets[target],
            widths=tuple(part.shape[1] for part in features) or None,
            costs=torch.tensor(self.costs[members], dtype=torch.float64),
        )

    def blocks(
        self, dataset: Dataset, target: str, rows: Rows, needs: AbstractSet[str] = frozenset()
    ) -> Iterator[tuple[slice, Outputs]]:
        """What the members say of some rows, some at a time: consecutive slices of ``rows`` and the :meth:`outputs` of each, of
        at most ``BLOCK`` numbers. Of no rows, one block without any."""
        size = max(1, BLOCK // self.outputs(dataset, target, rows[:0], needs).width)
        for start in range(0, max(1, len(rows)), size):
            part = slice(start, min(start + size, len(rows)))
            yield part, self.outputs(dataset, target, rows[part], needs)

    def finite(self, target: str, rows: Rows) -> Rows:
        """Those of some rows on which every member is finite."""
        for own in self.values(target):
            size = BLOCK // own.shape[1]
            parts = [rows[start : start + size] for start in range(0, len(rows), size)]
            rows = np.concatenate([rows[:0], *(part[np.isfinite(own[part]).all(1)] for part in parts)])
        return rows


@dataclass(frozen=True)
class BankRows:
    """Some rows of a bank (B,), read for one target as it is asked for; ``index`` holds positions among them."""

    bank: Bank
    dataset: Dataset
    target: str
    rows: Rows

    def outputs(self, index: Rows, needs: AbstractSet[str] = frozenset()) -> Outputs:
        """All that the members say of a few rows."""
        return self.bank.outputs(self.dataset, self.target, self.rows[index], needs)

    def blocks(self, index: Rows, needs: AbstractSet[str] = frozenset()) -> Iterator[tuple[slice, Outputs]]:
        """The same of many, some at a time; see :meth:`Bank.blocks`."""
        return self.bank.blocks(self.dataset, self.target, self.rows[index], needs)

    def true(self, index: Rows, codes: Rows) -> Outputs:
        """Of classes, the probability (M, B, 1) of one for each row alone."""
        found = np.empty((len(self.bank.members), len(index), 1))
        for own, place in zip(self.bank.values(self.target), found, strict=True):
            place[:, 0] = own[self.rows[index], codes]
        return Outputs(torch.from_numpy(found), task=self.dataset.schema.targets[self.target])

    def alone(self, member: int, index: Rows) -> Outputs:
        """What one member says (1, B, C)."""
        return self.bank.outputs(self.dataset, self.target, self.rows[index], members=slice(member, member + 1))


def build_bank(store: Store, dataset: Dataset, split: Split, members: Sequence[BankedMember]) -> tuple[Bank, bool]:
    """Assemble the bank from the members' replicas, one member at a time, or find it in the store."""
    key = content_key(
        members=[[m.name, m.keys, [s.judged for s in m.shares]] for m in members],
        data=dataset.fingerprint,
        roles=split.roles,
        code=code_version("bank", "partition"),
    )

    def build(folder: Path) -> None:
        hidden = np.zeros(len(dataset), bool)
        hidden[split.rows("train")] = True
        hidden[split.excluded] = True
        targets = dataset.schema.targets
        values = {t: _empty(folder / f"values-{t}.npy", len(members), len(dataset), s.width) for t, s in targets.items()}
        variances = {
            t: _empty(folder / f"variances-{t}.npy", len(members), len(dataset), 1)
            for t, s in targets.items()
            if s.kind == "regression"
        }
        for m, member in enumerate(members):
            replicas = [_said(place, targets) for place in member.folders]
            together = mean_said(replicas)
            for array in [*together.values.values(), *together.variances.values(), together.features]:
                array[hidden] = torch.nan
            for share, own in zip(member.shares, replicas, strict=True):
                for t in targets:
                    together.values[t][share.judged] = own.values[t][share.judged]
                for t in variances:
                    together.variances[t][share.judged] = own.variances[t][share.judged]
            for t, bank in values.items():
                bank[m] = together.values[t].numpy()
            for t, bank in variances.items():
                bank[m] = together.variances[t].numpy()
            np.save(folder / f"features-{m}.npy", together.features.numpy())
        for bank in [*values.values(), *variances.values()]:
            bank.flush()
        write_json(
            folder / "bank.json",
            {
                "members": [m.name for m in members],
                "keys": {m.name: m.keys for m in members},
                "costs": [_cost(m.folders) for m in members],
            },
        )

    place, reused = store.make("bank", key, build)
    return Bank.open(place), reused


def _cost(folders: Sequence[Path]) -> tuple[float, float]:
    training = [read_json(folder / "training.json") for folder in folders]
    return sum(t["latency"] for t in training), sum(t["bytes"] for t in training)


def _empty(file: Path, *shape: int) -> np.memmap[Any, Any]:
    array = open_memmap(file, "w+", np.float32, shape)
    reserve(file)  # where a disk is full later, a mapped file without its room would end the process by SIGBUS
    return array


def _said(folder: Path, targets: Mapping[str, TargetSchema]) -> Said:
    """What a stored replica says of every row."""

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.load(folder / f"{name}.npy"))

    values = {target: tensor(f"values-{target}") for target in targets}
    variances = {target: tensor(f"variances-{target}") for target, schema in targets.items() if schema.kind == "regression"}
    return Said(values, variances, tensor("features"))


def _read(file: Path) -> Floats:
    return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]


def _take(said: Floats, rows: Rows) -> Tensor:
    """Some rows of what each member says (M, B, C), one member at a time: a copy in single precision of all would be half as
    large again."""
    taken = np.empty((len(said), len(rows), said.shape[2]))
    for own, place in zip(said, taken, strict=True):
        place[:] = own[rows]
    return torch.from_numpy(taken)
