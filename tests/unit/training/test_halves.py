"""A batch in two halves teaches what the whole batch does: losses and gradients, however rows are weighed and mixed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fuseline.component import Component
from fuseline.data.schema import Schema, TargetSchema
from fuseline.models.heads import Head
from fuseline.models.network import Branch
from fuseline.training.halves import halves
from fuseline.training.mixing import Mixed
from fuseline.training.objective import Goal, Objective

TASKS = {"kind": TargetSchema(kind="classification", classes=["a", "b", "c"]), "size": TargetSchema(kind="regression")}


@given(
    st.integers(4, 9),
    st.integers(1, 3),
    st.sampled_from(["all", "some", "first half", "none"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
)
def test_halves_add_up_to_the_whole(rows: int, networks: int, known: str, boosted: bool, mixes: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(networks, rows, *shape, generator=generator)

    has = {
        "all": rand() > -1,
        "some": rand() > 0.4,
        "none": rand() > 2,
        "first half": (torch.arange(rows) < rows // 2) & (rand() > -1),
    }
    goals = {
        "kind": Goal((3 * rand()).long(), has[known] * (0.5 + rand()), rand() if boosted else None),
        "size": Goal(rand(), 1.0 * has["all"], rand() if boosted else None),
    }
    partner = torch.stack([torch.randperm(rows, generator=generator) for _ in range(networks)])
    mixed = Mixed(torch.empty(0), partner, rand()) if mixes else None
    losses = {"kind": Component(name="cross_entropy"), "size": Component(name="squared_error")}
    heads = {name: Head(task, torch.nn.Linear(1, Head.outputs(task))) for name, task in TASKS.items()}
    objective = Objective(heads, Schema(targets=TASKS), losses, {"kind": 2.0, "size": 0.5}, torch.tensor([], dtype=torch.int64))
    said = {"kind": rand(3).requires_grad_(), "size": rand(heads["size"].outputs(TASKS["size"])).requires_grad_()}

    def branches(raw: dict[str, Tensor]) -> list[Branch]:
        return [Branch(1.0, raw), Branch(0.3, {name: 2 * x for name, x in raw.items()})]

    whole = objective(branches(said), goals, mixed)
    expected = torch.autograd.grad(whole.sum(), list(said.values()))
    parts = []
    for ready, sides in halves(said, goals, mixed):
        assert 0 < ready["kind"].shape[1] < rows
        parts.append(sum(objective(branches(ready), side) for side in sides))
    total: Any = sum(parts)
    assert total.shape == (networks,)
    assert total.tolist() == pytest.approx(whole.tolist(), rel=1e-4, abs=1e-6)
    for mine, its in zip(torch.autograd.grad(total.sum(), list(said.values())), expected, strict=True):
        assert mine.numpy() == pytest.approx(its.numpy(), rel=1e-3, abs=1e-6)
