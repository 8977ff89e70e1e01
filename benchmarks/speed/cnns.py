"""8 CNNs with batch norm on 32×32×3 pictures: torchensemble's voting, and ours in two processes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from speed import plain
from speed.clock import timed
from speed.material import Material, coloured, scored, standardised

CHANNELS, FEATURES, CLASSES = [32, 64], 128, 10


class CNN(nn.Module):
    """As torchensemble wants it: a class of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = plain.cnn(CHANNELS, FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layers(x)


def torchensemble(members: int, rows: int, test: int, epochs: int, size: int, round: int) -> dict[str, float]:
    from speed.peers import vote

    torch.manual_seed(round)
    material = coloured(rows, test)
    x, held = standardised(material)
    vote(CNN, {}, 1, 1, size, x[:256], material.y[:256])
    ensemble, seconds = timed(lambda: vote(CNN, {}, members, epochs, size, x, material.y))
    with torch.no_grad():
        said = torch.cat([ensemble(part) for part in torch.from_numpy(held).split(500)])
    return {"seconds": seconds, **scored(said.numpy(), material.test_y)}


def ours(members: int, rows: int, test: int, epochs: int, size: int, round: int) -> dict[str, float]:
    """All that fuseline does to have the members in its store: what they say of every row, and their files, too."""
    with TemporaryDirectory() as made:
        folder, material = Path(made), coloured(rows, test)
        few = Material(material.x[:256], material.y[:256], material.test_x[:400], material.test_y[:400])
        small, whole = (_write(folder / name, part) for name, part in (("small", few), ("whole", material)))
        _train(recipe(small, 2, 1, size, 0))  # the workers' server starts
        said, seconds = timed(lambda: _train(recipe(whole, members, epochs, size, round)))
        return {"seconds": seconds, **scored(said[rows:], material.test_y)}


def _write(folder: Path, material: Material) -> Path:
    """Pictures as a recipe reads them. A recipe wants rows to fuse and to calibrate by; those are test pictures too, which no
    member is trained on."""
    folder.mkdir()
    roles = ["train"] * len(material.x) + ["fusion"] * 100 + ["calibration"] * 100 + ["test"] * (len(material.test_x) - 200)
    image, target = np.concatenate([material.x, material.test_x]), np.concatenate([material.y, material.test_y])
    np.savez(folder / "pictures.npz", image=image, target=target, role=np.array(roles))
    return folder


def recipe(folder: Path, members: int, epochs: int, size: int, seed: int) -> dict[str, Any]:
    return {
        "name": folder.name,
        "seed": seed,
        "data": {
            "source": {"npz": {"path": str(folder / "pictures.npz")}},
            "split": {"rule": "column", "column": "role"},
        },
        "targets": {"target": {"kind": "classification"}},
        "members": [
            {
                "name": "cnn",
                "count": members,
                "architecture": {"cnn": {"channels": CHANNELS, "convolutions": 1, "features": FEATURES, "dropout": 0.0}},
                "epochs": epochs,
                "batch_size": size,
                "optimizer": {"adamw": {"lr": plain.RATE}},
                "schedule": "constant",
                "early_stopping": None,
            }
        ],
        "training": {"device": "cpu", "threads": 1},
    }


def _train(made: dict[str, Any]) -> Any:
    """Train through the worker processes into a store; the members' mean of what they say of every row (N, C)."""
    from baselines import train

    from fuseline.plan import make_plan
    from fuseline.recipe import Recipe
    from fuseline.store import Store

    store = Store(Path(made["data"]["source"]["npz"]["path"]).with_name("store"))
    plan, _ = make_plan(Recipe.model_validate(made), store)
    members = train(plan, store)
    return np.mean([np.load(member.folders[0] / "values-target.npy") for member in members], axis=0)
