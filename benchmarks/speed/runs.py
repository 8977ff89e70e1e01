"""Whole runs of the `fuseline run` command: beside a bare script that does the same, and what they cost beyond their compute."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speed import cnns
from speed.clock import timed
from speed.material import coloured, scored

LONG = {"members": 6, "rows": 6000, "test": 2000, "size": 128}
COUNTS = {"train": 4000, "fusion": 1000, "calibration": 1000, "test": 2000}
RULES = ["mean", "vote", "weights", "greedy", "stacking"]


def prepare_long(folder: str, epochs: int) -> None:
    """The pictures and the recipe; one run of another seed makes the databases, since those of a new home are made once only."""
    place = Path(folder)
    material = coloured(LONG["rows"], LONG["test"])
    roles = np.repeat(list(COUNTS), list(COUNTS.values()))
    image, target = np.concatenate([material.x, material.test_x]), np.concatenate([material.y, material.test_y])
    np.savez(place / "pictures.npz", image=image, target=target, role=roles)
    made = {**cnns.recipe(place, LONG["members"], epochs, LONG["size"], 0), "name": "long"}
    made["fusion"] = {"rules": RULES}
    (place / "recipe.json").write_text(json.dumps(made), encoding="utf-8")
    fuseline(place, "seed=1000", "members.0.epochs=1", "members.0.count=2")


def whole(folder: str, round: int) -> dict[str, float]:
    """The command from its start to its end, as a shell would time it."""
    place = Path(folder)
    summary, seconds = timed(lambda: fuseline(place, f"seed={round}"))
    report = _entry(place, "report")
    said = np.load(report / "predictions-target.npy")
    truth = np.load(place / "pictures.npz")["target"][np.load(report / "rows-target.npy")]
    return {"seconds": seconds, **summary["timing"], **scored(said, truth)}


def bare(folder: str, round: int) -> dict[str, float]:
    """A script that does the same, from its start to its end: its own process is timed."""
    command = [sys.executable, str(Path(__file__)), folder, str(round)]
    done, seconds = timed(lambda: subprocess.run(command, capture_output=True, text=True, check=True))  # noqa: S603
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def fuseline(folder: Path, *overrides: str) -> dict[str, Any]:
    """Run the recipe of a folder by the command and give its summary."""
    command = [str(Path(sys.executable).with_name("fuseline")), "run", str(folder / "recipe.json"), "--json"]
    for override in overrides:
        command += ["--set", override]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}: {done.stderr[-2000:]}")
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def _entry(folder: Path, kind: str) -> Path:
    """The newest entry of a kind in the store of a folder's home."""
    return max((folder / "home" / "store" / kind).iterdir(), key=lambda entry: entry.stat().st_mtime)


# ------------------------------------------------------------------------------------------------- the bare script


def script(folder: Path, round: int) -> dict[str, float]:
    """Train the recipe's members by a plain PyTorch loop, two side by side with one thread each, all data resident, channels last
    and a fused optimizer; keep what they say of every row as a bank; fuse and judge it by fuseline's own functions."""
    made = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    entry, roles = made["members"][0], np.load(folder / "pictures.npz")["role"]
    jobs = [(folder, 100 * round + member, entry["epochs"], entry["batch_size"]) for member in range(entry["count"])]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo"])
    with ProcessPoolExecutor(2, context) as pool:
        said = np.stack(list(pool.map(train_one, jobs)))
    said[:, roles == "train"] = np.nan
    return fused(folder, said, round)


def train_one(job: tuple[Path, int, int, int]) -> NDArray[np.float32]:
    """One member: what it says of every row (N, C)."""
    import torch

    from speed import plain

    folder, seed, epochs, size = job
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    files = np.load(folder / "pictures.npz")
    train = np.flatnonzero(files["role"] == "train")
    x = torch.from_numpy(files["image"]).float()
    x = (x - x[train].mean((0, 2, 3), keepdim=True)) / x[train].std((0, 2, 3), keepdim=True)
    x = x.contiguous(memory_format=torch.channels_last)
    network = plain.cnn(cnns.CHANNELS, cnns.FEATURES, cnns.CLASSES).to(memory_format=torch.channels_last)
    plain.fit(network, x[train], torch.from_numpy(files["target"])[train], epochs, size, fused=True)
    found: NDArray[np.float32] = plain.predict([network], x).numpy()
    return found


def fused(folder: Path, said: NDArray[np.float32], round: int) -> dict[str, float]:
    """Fuse what members say (M, N, C) by all rules and judge them with intervals, by the functions and settings of the run."""
    from fuseline.component import Component
    from fuseline.data.split import ROLES, Split
    from fuseline.evaluation.metrics import METRICS
    from fuseline.evaluation.report import evaluate
    from fuseline.fusion.fuse import FuseSpec, fuse_target
    from fuseline.store import Store
    from speed import banks, fuselines

    files = np.load(folder / "pictures.npz")
    dataset = fuselines.pictures(files["image"], files["target"], cnns.CLASSES)
    split = Split(np.array([ROLES.index(role) for role in files["role"]], np.int8))
    store, units = Store(folder / f"bare-{round}-{time.time_ns()}"), np.arange(len(dataset))
    bank = banks.write(store.root / "bank" / "bare", said)
    rules = banks.rules([Component(name=name) for name in RULES])
    part, _ = fuse_target(store, bank, dataset, split, FuseSpec("target", rules, 5, True, 0, 1), units)
    names = {"target": list(METRICS["classification"])}
    _, place, _ = evaluate(store, bank, dataset, split, units, [part], names, 1000, 0.95, 0)
    return scored(np.load(place / "predictions-target.npy"), files["target"][np.load(place / "rows-target.npy")])


# ---------------------------------------------------------------------------------------------------- fixed costs


def prepare_short(folder: str) -> None:
    """A small recipe and one run of it: the databases exist, and everything can be reused."""
    member = {"name": "mlp", "count": 2, "architecture": {"mlp": {"hidden": [64]}}, "epochs": 5, "early_stopping": None}
    made = {
        "name": "short",
        "data": {"source": {"sklearn": {"name": "digits"}}},
        "targets": {"digit": {"kind": "classification", "column": "target"}},
        "members": [member],
        "training": {"device": "cpu"},
    }
    (Path(folder) / "recipe.json").write_text(json.dumps(made), encoding="utf-8")
    fuseline(Path(folder))


def reused(folder: str) -> dict[str, float]:
    """The same run again."""
    summary, seconds = timed(lambda: fuseline(Path(folder)))
    if summary["trained"]:
        raise RuntimeError("something was trained that should have been reused")
    return {"seconds": seconds, **summary["timing"]}


def fresh(folder: str, round: int) -> dict[str, float]:
    """A run of another seed. ``fixed`` is all but compute: of training the seconds of its longest replica (two run side by side,
    or both as one), of the bank, the fusing and the judging their stages. So the start of the workers counts as a cost."""
    place = Path(folder)
    before = set((place / "home" / "store" / "replica").iterdir())
    summary, seconds = timed(lambda: fuseline(place, f"seed={round + 1}"))
    new = set((place / "home" / "store" / "replica").iterdir()) - before
    trained = [json.loads((entry / "training.json").read_text(encoding="utf-8"))["seconds"] for entry in new]
    timing = summary["timing"]
    compute = max(trained) + timing["bank"] + timing["fuse"] + timing["evaluate"]
    stages = timing["train"] + timing["bank"] + timing["fuse"] + timing["evaluate"]
    return {"seconds": seconds, "fixed": seconds - compute, "fixed_beyond_stages": seconds - stages, **timing}


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from speed import runs  # by its full name, so that the processes of the pool find its functions

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(json.dumps(runs.script(Path(sys.argv[1]), int(sys.argv[2]))))
