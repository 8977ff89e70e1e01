"""An ensemble as files: ``ensemble.json`` says how it is built, ``weights.safetensors`` holds its tensors. No pickle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from fuseline.component import Part, explain, unknown
from fuseline.data.schema import Schema
from fuseline.errors import PackageError
from fuseline.evaluation.conformal import Conformal
from fuseline.fusion.combine import Combiner
from fuseline.fusion.combiners import COMBINERS
from fuseline.models.network import Network, NetworkSpec
from fuseline.package.ensemble import Ensemble
from fuseline.package.group import Member
from fuseline.package.precision import Precision, has_units
from fuseline.store import MANIFEST, damage, read_json, write_json

FORMAT = 4
DESCRIPTION, WEIGHTS = "ensemble.json", "weights.safetensors"


class MemberFile(Part):
    """A member's name, how each of its networks is built, and how many replicas it has."""

    name: str
    network: NetworkSpec
    replicas: int


class TargetFile(Part):
    """A target's fusion rule, the combiner that serves it, the number that calibrates it, and what the combiner looks at besides
    the members' outputs: ``features``, ``inputs``; and how its sets or intervals are made, where there were calibration rows."""

    rule: str
    combiner: str
    number: float
    looks: list[str] = []
    conformal: Conformal | None = None


class Description(Part):
    """What ``ensemble.json`` holds."""

    format: int = FORMAT
    schema_: Schema
    members: list[MemberFile]
    targets: dict[str, TargetFile]
    threads: int
    batch: int
    precision: Precision = Precision()
    provenance: dict[str, Any]


def save_ensemble(
    description: Description, networks: Sequence[Sequence[Network]], combiners: dict[str, Combiner], folder: Path
) -> None:
    """Write an ensemble; ``networks[m]`` are the replicas of member m."""
    write_json(folder / DESCRIPTION, description)
    tensors = {
        f"members/{m}/{k}/{name}": tensor.contiguous()
        for m, replicas in enumerate(networks)
        for k, network in enumerate(replicas)
        for name, tensor in network.state_dict().items()
    }
    for target, combiner in combiners.items():
        tensors |= {f"combiners/{target}/{name}": tensor.contiguous() for name, tensor in combiner.tensors().items()}
    save_file(tensors, folder / WEIGHTS)


def load_description(folder: Path) -> Description:
    tree = read_json(folder / DESCRIPTION)
    if tree.get("format") != FORMAT:
        raise PackageError(f"{folder}: format {tree.get('format')} of {DESCRIPTION} is not known here (this is {FORMAT}).")
    try:
        return Description.model_validate(tree)
    except ValidationError as error:
        raise PackageError(f"{folder / DESCRIPTION}: {explain(error)}") from None


def load_ensemble(folder: Path) -> Ensemble:
    """Rebuild an ensemble from its files, in evaluation mode.

    Raises:
        PackageError: the files are not those that the store's manifest beside them names, or can't be read.
    """
    if (folder / MANIFEST).exists() and (wrong := damage(folder)) is not None:
        raise PackageError(f"{folder}: the package is refused: {wrong}.")
    description = load_description(folder)
    tensors = load_file(folder / WEIGHTS)

    def part(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    members = []
    for m, member in enumerate(description.members):
        networks = [Network(description.schema_, member.network) for _ in range(member.replicas)]
        for k, network in enumerate(networks):
            try:
                network.load_state_dict(part(f"members/{m}/{k}/"))
            except RuntimeError as error:
                raise PackageError(f"{folder / WEIGHTS}: member {member.name!r}: {' '.join(str(error).split())}") from None
        members.append(networks)
    for name, target in description.targets.items():
        if target.combiner not in COMBINERS:
            raise PackageError(f"{folder / DESCRIPTION}: target {name!r}: the combiner {unknown(target.combiner, COMBINERS)}")
    combiners = {name: COMBINERS[t.combiner](part(f"combiners/{name}/")) for name, t in description.targets.items()}
    return assemble(description, members, combiners)


def assemble(description: Description, networks: Sequence[Sequence[Network]], combiners: dict[str, Combiner]) -> Ensemble:
    """An ensemble in evaluation mode from its parts; ``networks[m]`` are the replicas of member m."""
    targets = description.targets
    members = [
        Member(its.network, [network.eval() for network in replicas])
        for its, replicas in zip(description.members, networks, strict=True)
    ]
    numbers = {name: target.number for name, target in targets.items()}
    looks = {thing for target in targets.values() for thing in target.looks}
    ensemble = Ensemble(description.schema_, members, combiners, numbers, looks).eval()
    if has_units():  # elsewhere float32 is more exact, and faster
        ensemble.members.precision = description.precision.used
    return ensemble
