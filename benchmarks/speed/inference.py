"""A packaged ensemble on batches of several sizes: the package's own way, and a naive loop over its members in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fuseline.fusion.combine import Mixture
from fuseline.fusion.combiners import combiner_name
from fuseline.models.network import Network
from fuseline.package.files import Description, MemberFile, TargetFile, load_description, load_ensemble, save_ensemble
from speed import fuselines
from speed.clock import repeated
from speed.material import Material, coloured, digits
from speed.plain import THREADS

TEMPERATURE = 1.2
ARCHITECTURES: dict[str, tuple[dict[str, Any], Callable[[], Material]]] = {
    "MLP": ({"mlp": {"hidden": [64, 64], "dropout": 0.1}}, digits),
    "CNN": ({"cnn": {"channels": [32, 64], "convolutions": 1, "features": 128, "dropout": 0.1}}, lambda: coloured(1024, 512)),
}


def prepare(folder: str, members: int, architecture: str) -> None:
    """Members trained for an epoch each, fused by their mean and calibrated, as a package; and the pictures to predict."""
    from fuseline.training.train import train

    made, draw = ARCHITECTURES[architecture]
    material = draw()
    dataset = fuselines.pictures(material.x, material.y, 10)
    spec, share = fuselines.spec(made, 1, 128, THREADS), fuselines.share(1024)
    networks = [[train(dataset, spec, share, seed).network] for seed in range(members)]
    combiner = Mixture({"weights": torch.full((members,), 1 / members, dtype=torch.float64)})
    names = [MemberFile(name=f"m{number}", network=spec.network, replicas=1) for number in range(members)]
    target = TargetFile(rule="mean", combiner=combiner_name(combiner), number=TEMPERATURE)
    description = Description(
        schema_=dataset.schema, members=names, targets={fuselines.TARGET: target}, threads=THREADS, batch=4096, provenance={}
    )
    save_ensemble(description, networks, {fuselines.TARGET: combiner}, Path(folder))
    torch.save([replicas[0].state_dict() for replicas in networks], Path(folder) / "networks.pt")
    spread = torch.from_numpy(material.test_x)
    torch.save(spread[torch.arange(4096) % len(spread)], Path(folder) / "pictures.pt")


def naive(folder: str, batches: list[int]) -> dict[str, float]:
    """One member after the other, each with its own preprocessing; mean, temperature and the two uncertainties in float32."""
    description, networks = load_description(Path(folder)), []
    for member, state in zip(description.members, torch.load(Path(folder) / "networks.pt"), strict=True):
        network = Network(description.schema_, member.network)
        network.load_state_dict(state)
        networks.append(network.eval())

    def answer(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        said = torch.stack([network({"image": x})[1][fuselines.TARGET].softmax(1) for network in networks])
        values = said.mean(0).clamp(min=1e-7)
        epistemic = entropy(values) - entropy(said.clamp(min=1e-7)).mean(0)
        values = (values.log() / TEMPERATURE).softmax(1)
        return values, entropy(values), epistemic

    return _times(folder, batches, lambda x: answer(x)[0])


def entropy(p: Tensor) -> Tensor:
    return -(p * p.log()).sum(-1)


def ours(folder: str, batches: list[int]) -> dict[str, float]:
    """The package as it is loaded; ``change`` is how far its probabilities are from the naive loop's at the most."""
    ensemble = load_package(Path(folder))
    return _times(folder, batches, lambda x: ensemble({"image": x})[fuselines.TARGET].values)


def load_package(folder: Path) -> Any:
    """The one place that loads a package for prediction."""
    return load_ensemble(folder)


@torch.inference_mode()
def _times(folder: str, batches: list[int], answer: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Seconds per batch, and the largest difference to what the naive loop said of all pictures."""
    torch.set_num_threads(THREADS)
    x, file = torch.load(Path(folder) / "pictures.pt"), Path(folder) / "naive.pt"
    found = {f"batch {size}": repeated(lambda size=size: answer(x[:size])) for size in batches}  # type: ignore[misc]
    said = answer(x).double()
    if not file.exists():  # the naive side's first round
        torch.save(said, file)
    return {**found, "change": float((said - torch.load(file)).abs().max())}
