"""Five million rows from Parquet to Parquet: what the driver takes is the peak of anonymous memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fuseline.fusion.combine import Mixture
from fuseline.fusion.combiners import combiner_name
from fuseline.package.files import Description, MemberFile, TargetFile, save_ensemble
from speed import fuselines
from speed.clock import timed
from speed.plain import THREADS

MEMBERS, GROUP = 4, 250_000


def prepare(folder: str, rows: int, columns: int) -> None:
    """A package of four MLPs, trained for an epoch on a few of the rows, and the rows as float64 columns in one Parquet file."""
    from fuseline.training.train import train

    place, random = Path(folder), np.random.default_rng(0)
    names = [f"x{j}" for j in range(columns)]
    x = random.normal(size=(2000, columns))
    dataset = fuselines.table(x, (x[:, 0] + x[:, 1] > 0).astype(np.int64), 2)
    spec = fuselines.spec({"mlp": {"hidden": [64, 64]}}, 1, 128, THREADS)
    networks = [[train(dataset, spec, fuselines.share(2000), seed).network] for seed in range(MEMBERS)]
    combiner = Mixture({"weights": torch.full((MEMBERS,), 1 / MEMBERS, dtype=torch.float64)})
    members = [MemberFile(name=f"m{number}", network=spec.network, replicas=1) for number in range(MEMBERS)]
    target = TargetFile(rule="mean", combiner=combiner_name(combiner), number=1.0)
    description = Description(
        schema_=dataset.schema, members=members, targets={fuselines.TARGET: target}, threads=THREADS, batch=2048, provenance={}
    )
    (place / "package").mkdir()
    save_ensemble(description, networks, {fuselines.TARGET: combiner}, place / "package")
    schema = pa.schema([(name, pa.float64()) for name in names])
    with pq.ParquetWriter(place / "rows.parquet", schema, compression="none") as writer:
        for start in range(0, rows, GROUP):
            part = random.normal(size=(columns, min(GROUP, rows - start)))
            writer.write_table(pa.table(dict(zip(names, part, strict=True)), schema))


def predict(folder: str, round: int) -> dict[str, float]:
    place, out = Path(folder), Path(folder) / f"answers-{round}.parquet"
    _, seconds = timed(lambda: stream(place / "package", place / "rows.parquet", out))
    asked, said = (pq.ParquetFile(file).metadata.num_rows for file in (place / "rows.parquet", out))
    if asked != said:
        raise RuntimeError(f"{said} answers for {asked} rows")
    return {"seconds": seconds, "rows_per_second": said / seconds}


def stream(package: Path, rows: Path, answers: Path) -> None:
    """The one place that calls the package's streaming."""
    from fuseline.package.stream import predict_parquet

    predict_parquet(package, rows, answers)
