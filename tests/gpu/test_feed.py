"""The feed gives a GPU the same bytes as a CPU, resident, streaming and beyond memory, while the GPU computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fuseline.training import feed as module
from fuseline.training.feed import feed

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("way", ["resident", "streaming", "beyond memory"])
def test_a_gpu_is_given_what_a_cpu_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    random = np.random.default_rng(0)
    np.save(tmp_path / "image.npy", random.integers(0, 256, (2000, 3, 32, 32), dtype=np.uint8))
    arrays = {"image": np.load(tmp_path / "image.npy", mmap_mode="r"), "numeric": random.normal(size=(2000, 4))}
    if way == "beyond memory":
        monkeypatch.setattr(module, "free_bytes", lambda device: 0)
    monkeypatch.setattr(module, "PART", 1 << 20)  # so that arrays are brought in several parts
    there, here = feed(arrays, GPU, 1 << 30 if way == "resident" else 0), feed(arrays, CPU, 1 << 30)
    batches = torch.randperm(2000, generator=torch.Generator().manual_seed(0)).view(-1, 4, 50)
    kept = []
    work = torch.ones(2048, 2048, device=GPU)
    for batch in there.stream(batches):
        assert all(x.is_cuda for x in batch.values())
        work = (work @ work) / 2048  # the GPU is behind, and memory is given back while it still has to read it
        kept.append({name: x * 1 for name, x in batch.items()})
        del batch
    for rows, batch in zip(batches, kept, strict=True):
        for name, x in here.take(rows).items():
            assert batch[name].dtype == x.dtype
            assert torch.equal(batch[name].cpu(), x)
    for name, x in there.take(torch.tensor(7)).items():
        assert torch.equal(x.cpu(), here.take(torch.tensor(7))[name])
