"""The bank: what every member says of every row, from which everything behind it is computed.

Shapes: M members, N rows of the data, C classes, labels, quantiles or 1, D features. Per target ``values`` (M, N, C) and, for
a regression, ``variances`` (M, N, 1); per member ``features`` (N, D), its replicas' side by side. All float32 and memory-mapped.
Rows that a member must not be judged on are NaN: its training rows, but for those that a replica judges out of fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from fuseline.fusion.combine import Outputs
from fuseline.fusion.inputs import plain
from fuseline.models.network import Said, mean_said
from fuseline.partition import Rows, Share
from fuseline.store import Store, code_version, content_key, read_json, write_json

Floats = NDArray[np.floating[Any]]


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
        return np.load(self.folder / f"values-{target}.npy", mmap_mode="r")  # type: ignore[no-any-return]

    def outputs(self, dataset: Dataset, target: str, rows: Rows, needs: AbstractSet[str] = frozenset()) -> Outputs:
        """What the members say of some rows, in float64; with their ``features`` side by side and the rows' own ``inputs``, as
        far as they are needed."""
        variances = self.folder / f"variances-{target}.npy"
        features = [_take(self.folder / f"features-{m}.npy", rows, 0) for m in range(len(self.members)) if "features" in needs]
        arrays = {name: torch.from_numpy(np.asarray(array)[rows]) for name, array in dataset.inputs.items() if "inputs" in needs}
        return Outputs(
            values=_take(self.folder / f"values-{target}.npy", rows),
            variances=_take(variances, rows) if variances.exists() else None,
            features=torch.cat(features, 1) if features else None,
            inputs=plain(dataset.schema, arrays) if arrays else None,
            task=dataset.schema.targets[target],
            widths=tuple(part.shape[1] for part in features) or None,
            costs=torch.tensor(self.costs, dtype=torch.float64),
        )

    def finite(self, target: str, rows: Rows) -> Rows:
        """Those of some rows on which every member is finite."""
        values = self.values(target)
        keep = np.ones(len(rows), bool)
        for member in range(len(values)):
            keep &= np.isfinite(values[member, rows]).all(1)
        return rows[keep]


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
    return open_memmap(file, "w+", np.float32, shape)


def _said(folder: Path, targets: Mapping[str, TargetSchema]) -> Said:
    """What a stored replica says of every row."""

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.load(folder / f"{name}.npy"))

    values = {target: tensor(f"values-{target}") for target in targets}
    variances = {target: tensor(f"variances-{target}") for target, schema in targets.items() if schema.kind == "regression"}
    return Said(values, variances, tensor("features"))


def _take(file: Path, rows: Rows, axis: int = 1) -> Tensor:
    return torch.from_numpy(np.take(np.load(file, mmap_mode="r"), rows, axis).astype(np.float64))
