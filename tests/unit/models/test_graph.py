"""The graph network against brute-force neighbours, and against its formulas computed row by row."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_moons
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn import functional as F

from fuseline.component import Component, complete
from fuseline.data.schema import FIRST, MISSING, Schema
from fuseline.errors import RecipeError
from fuseline.models.graph import Graph, distances, edges, graph, nearest
from fuseline.models.preprocessing import Batch, Preprocessing

needs_package = pytest.mark.skipif(find_spec("torch_geometric") is None, reason="the extra 'graph' is not installed")

NUMERIC = Schema(numeric=["a", "b", "d"], targets={})
WORDS = Schema(categorical={"c": ["x", "y"], "e": ["u", "v", "w"]}, targets={})
MIXED = Schema(numeric=NUMERIC.numeric, categorical=WORDS.categorical, targets={})
PICTURES = Schema(image=(2, 3, 4), targets={})
SCHEMAS = {"numbers": NUMERIC, "words": WORDS, "both": MIXED, "pictures": PICTURES}
SMALL: dict[str, Any] = {"anchors": 20, "neighbours": 4, "width": 8, "heads": 2, "dropout": 0.0}
CONVOLUTIONS = ("sage", "gat")


@pytest.fixture(autouse=True, scope="module")
def _own_chance() -> Iterator[None]:
    """Modules begin by the global generator; the tests after these find it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(seed: int, count: int, schema: Schema = MIXED) -> Batch:
    """Preprocessed rows."""
    generator = chance(seed)
    if schema.image:
        return {"image": torch.randn(count, *schema.image, generator=generator)}
    batch: Batch = {}
    if schema.numeric:
        numbers = torch.randn(count, 3, generator=generator)
        missing = (torch.rand(count, 3, generator=generator) < 0.2).float()
        batch["numeric"] = torch.cat([numbers * (1 - missing), missing], 1)
    if schema.categorical:
        sizes = torch.tensor([FIRST + len(words) for words in schema.categorical.values()])
        batch["categorical"] = (torch.rand(count, len(sizes), generator=generator) * sizes).long()
    return batch


def fitted(schema: Schema = MIXED, count: int = 60, seed: int = 0, **chosen: Any) -> Graph:
    """As training builds it: the settings were completed and written down before."""
    torch.manual_seed(seed)
    component = complete(Component(name="graph", settings=SMALL | chosen), {"graph": graph}, "architecture")
    backbone = graph(schema, **Component.model_validate_json(component.model_dump_json()).settings)
    assert isinstance(backbone, Graph)
    backbone.fit(rows(99, count, schema), chance(seed))
    return backbone.eval()


def plain(batch: Batch, schema: Schema) -> Any:
    """Preprocessed rows as vectors, categories one-hot."""
    parts = [x.flatten(1) for name, x in batch.items() if name != "categorical"]
    for j, words in enumerate(schema.categorical.values()):
        parts.append(F.one_hot(batch["categorical"][:, j], FIRST + len(words)).float())
    return torch.cat(parts, 1).numpy()


def close(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one, other, rtol=1e-4, atol=1e-5))


# ----------------------------------------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize("kind", SCHEMAS)
def test_distances_are_those_of_one_hot_rows(kind: str) -> None:
    schema = SCHEMAS[kind]
    one, other = rows(0, 9, schema), rows(1, 13, schema)
    expected = ((plain(one, schema)[:, None] - plain(other, schema)[None]) ** 2).sum(2)
    assert distances(one, other).numpy() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert (distances(one, one).diagonal() == 0).all()


@given(seed=st.integers(0, 999), k=st.integers(1, 12), values=st.integers(1, 5))
def test_equal_distances_go_by_place(seed: int, k: int, values: int) -> None:
    apart = (torch.rand(7, 10, generator=chance(seed)) * values).floor()
    apart[torch.rand(7, 10, generator=chance(seed + 1)) < 0.3] = torch.inf
    for row, found in zip(apart.tolist(), nearest(apart, k).tolist(), strict=True):
        expected = [i for i in sorted(range(10), key=lambda i: (row[i], i)) if row[i] < float("inf")]
        assert found == (expected + [-1] * 10)[: min(k, 10)]


@needs_package
@pytest.mark.parametrize("kind", ["numbers", "pictures"])
def test_neighbours_are_those_that_brute_force_finds(kind: str) -> None:
    schema = SCHEMAS[kind]
    backbone, batch = fitted(schema), rows(1, 30, schema)
    oracle = NearestNeighbors(algorithm="brute").fit(plain(backbone.anchors, schema))
    apart, order = oracle.kneighbors(plain(batch, schema), 20)
    assert backbone.real.all()
    expected = [near[far > 0][:4] for near, far in zip(order, apart, strict=True)]  # a row that is wholly missing has copies
    assert np.array_equal(backbone.near(batch).numpy(), expected)
    assert np.array_equal(backbone.links.numpy(), oracle.kneighbors(n_neighbors=4)[1])  # of fitted rows, each without itself


@needs_package
def test_a_row_never_sees_its_copies() -> None:
    train = {name: torch.cat([x, x]) for name, x in rows(0, 10).items()}  # of each row two
    backbone = graph(MIXED, **SMALL)
    assert isinstance(backbone, Graph)
    backbone.fit(train, chance(0))
    for mode in (True, False):
        near = backbone.train(mode).near(train)
        assert (near >= 0).all()
        assert (distances(train, backbone.anchors).gather(1, near) > 0).all()
        assert near[:10].equal(near[10:])
        assert near.equal(backbone.links)


@needs_package
@pytest.mark.parametrize("count", [1, 2, 4, 13, 20, 21, 60])
def test_there_are_as_many_anchors_as_rows(count: int) -> None:
    backbone, train = fitted(NUMERIC, count), rows(99, count, NUMERIC)
    used = min(count, 20)
    assert int(backbone.real.sum()) == used
    assert backbone.real[:used].all()
    held = backbone.anchors["numeric"][:used]
    places = [int((train["numeric"] == row).all(1).nonzero()) for row in held]  # each is one of them, in their order
    assert places == sorted(set(places))
    assert ((backbone.links[:used] >= 0).sum(1) == min(4, used - 1)).all()
    near = backbone.near(rows(1, 9, NUMERIC))
    assert ((near >= 0).sum(1) == min(4, used)).all()
    assert (near < used).all()
    assert backbone(rows(1, 9, NUMERIC)).isfinite().all()


@needs_package
def test_anchors_are_drawn_by_the_generator() -> None:
    first, again, other = fitted(seed=3), fitted(seed=3), fitted(seed=4)
    assert first.anchors["numeric"].equal(again.anchors["numeric"])
    assert not first.anchors["numeric"].equal(other.anchors["numeric"])


@needs_package
def test_a_second_fit_forgets_the_first() -> None:
    backbone, other = fitted(count=60), fitted(count=9)
    backbone.fit(rows(99, 9), chance(0))
    state = other.state_dict()
    assert all(backbone.get_buffer(name).equal(state[name]) for name, _ in backbone.named_buffers())


# --------------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("count", [3, 60])
@needs_package
def test_sage_is_its_formula(count: int) -> None:
    """relu(W₁ · mean of the neighbours + b + W₂ · own), with anchors and rows alike, none seeing its copies."""
    backbone, batch = fitted(count=count, layers=2), rows(1, 9)
    everyone = {name: torch.cat([x, batch[name]]) for name, x in backbone.anchors.items()}
    near = [[i for i in found if i >= 0] for found in torch.cat([backbone.links, backbone.near(batch)]).tolist()]
    p = dict(backbone.named_parameters())
    h = (backbone.flat(everyone) @ p["first.weight"].T + p["first.bias"]).relu()
    for layer in ("convolutions.0", "convolutions.1"):
        w1, b, w2 = (p[f"{layer}.{name}"] for name in ("lin_l.weight", "lin_l.bias", "lin_r.weight"))
        means = torch.stack([h[found].mean(0) if found else torch.zeros(8) for found in near])
        h = (means @ w1.T + b + h @ w2.T).relu()
    assert close(backbone(batch), h[20:])


@pytest.mark.parametrize("count", [3, 60])
@needs_package
def test_gat_is_its_formula(count: int) -> None:
    """Equation 7 of Brody et al. 2022: softmax over the neighbours j of a · LeakyReLU(W_l h_j + W_r h_i)."""
    backbone, batch = fitted(count=count, layers=1, convolution="gat"), rows(1, 9)
    p = {name.removeprefix("convolutions.0."): x for name, x in backbone.named_parameters()}
    nn.init.normal_(p["bias"])
    h = {
        name: (backbone.flat(b) @ p["first.weight"].T + p["first.bias"]).relu()
        for name, b in (("rows", batch), ("anchors", backbone.anchors))
    }
    sent = (h["anchors"] @ p["lin_l.weight"].T + p["lin_l.bias"]).view(-1, 2, 4)
    asked = (h["rows"] @ p["lin_r.weight"].T + p["lin_r.bias"]).view(-1, 2, 4)
    out = []
    for i, found in enumerate(backbone.near(batch).tolist()):
        js = [j for j in found if j >= 0]
        scores = (F.leaky_relu(sent[js] + asked[i], 0.2) * p["att"]).sum(2).softmax(0)  # (k, heads)
        out.append((scores[..., None] * sent[js]).sum(0).flatten())
    expected = (torch.stack(out) + h["rows"] @ p["res.weight"].T + p["bias"]).relu()
    assert close(backbone(batch), expected)


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@needs_package
def test_an_anchor_that_comes_as_a_row_gets_its_own_state(convolution: str) -> None:
    """Two layers by hand, all nodes in one graph: the anchors' states are what the network says of them."""
    backbone = fitted(convolution=convolution, layers=2)
    h = backbone.first(backbone.flat(backbone.anchors)).relu()
    for layer in backbone.convolutions:
        h = layer((h, h), edges(backbone.links)).relu()
    assert close(backbone(backbone.anchors), h)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@needs_package
def test_each_layer_reaches_one_link_farther(convolution: str, layers: int) -> None:
    """A row's features have gradients for its neighbours, with two layers for the neighbours' neighbours, and for no others."""
    backbone, batch = fitted(NUMERIC, convolution=convolution, layers=layers, neighbours=2), rows(1, 30, NUMERIC)
    anchors = backbone.anchors["numeric"].requires_grad_()
    whole = 0
    for out, near in zip(backbone(batch), backbone.near(batch), strict=True):
        (gradient,) = torch.autograd.grad(out.sum(), anchors, retain_graph=True)
        read = set(gradient.any(1).nonzero()[:, 0].tolist())
        reached = set(near.tolist()) | (set(backbone.links[near].flatten().tolist()) if layers == 2 else set())
        assert read <= reached
        whole += read == reached
    assert whole > 15  # a ReLU may cut a path off


# ------------------------------------------------------------------------------------------------------- as any backbone


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("kind", SCHEMAS)
@needs_package
def test_as_many_features_come_out_as_it_says(kind: str, convolution: str) -> None:
    backbone = fitted(SCHEMAS[kind], convolution=convolution, dropout=0.3)
    for mode in (True, False):
        for count in (1, 7):
            out = backbone.train(mode)(rows(1, count, SCHEMAS[kind]))
            assert out.shape == (count, backbone.features) == (count, 8)
            assert out.dtype == torch.float32
            assert out.isfinite().all()


@needs_package
@given(seed=st.integers(0, 999), size=st.integers(1, 12), convolution=st.sampled_from(CONVOLUTIONS), words=st.booleans())
@settings(max_examples=20)
def test_a_rows_answer_does_not_depend_on_its_batch(seed: int, size: int, convolution: str, words: bool) -> None:
    schema = WORDS if words else MIXED  # among words alone many rows are equally far apart
    backbone, batch = fitted(schema, convolution=convolution), rows(seed, 12, schema)
    order = torch.randperm(12, generator=chance(seed))
    part = {name: x[order[:size]] for name, x in batch.items()}
    assert backbone.near(part).equal(backbone.near(batch)[order[:size]])
    assert close(backbone(part), backbone(batch)[order[:size]])


@pytest.mark.parametrize("count", [5, 60])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("numbers", [None, {"piecewise_linear": {"bins": 5}}])
@needs_package
def test_a_rebuilt_network_says_the_same_to_the_last_bit(convolution: str, count: int, numbers: Any) -> None:
    backbone = fitted(count=count, convolution=convolution, numbers=numbers)
    other = fitted(count=33, seed=1, convolution=convolution, numbers=numbers)  # other weights, other anchors
    batch = rows(1, 20)
    assert not other(batch).equal(backbone(batch))
    shapes = {name: x.shape for name, x in backbone.state_dict().items()}
    assert shapes == {name: x.shape for name, x in other.state_dict().items()}
    other.load_state_dict(backbone.state_dict())
    assert other(batch).equal(backbone(batch))
    assert copy.deepcopy(backbone)(batch).equal(backbone(batch))


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@needs_package
def test_it_builds_and_says_two_rows_without_memory(convolution: str, kind: str) -> None:
    with torch.device("meta"):
        backbone = graph(SCHEMAS[kind], **SMALL, convolution=convolution)
    batch = {name: x.to("meta") for name, x in rows(0, 2, SCHEMAS[kind]).items()}
    out = backbone(batch)
    assert out.shape == (2, 8)
    assert out.is_meta


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@needs_package
def test_gradients_reach_every_parameter(convolution: str, kind: str) -> None:
    backbone = fitted(SCHEMAS[kind], convolution=convolution, dropout=0.1).train()
    out = backbone(rows(1, 64, SCHEMAS[kind]))
    (out * torch.randn(out.shape, generator=chance(0))).sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []


@needs_package
@given(seed=st.integers(0, 999))
@settings(max_examples=8)
def test_what_a_member_does_not_see_never_changes_what_it_says(seed: int) -> None:
    preprocessing = Preprocessing(MIXED)
    view = {name: torch.rand(n, generator=chance(seed)) < 0.5 for name, n in (("numeric", 3), ("categorical", 2))}
    preprocessing.see(view)
    raw = [
        {"numeric": b["numeric"][:, :3].double(), "categorical": b["categorical"]} for b in (rows(seed + i, 40) for i in range(3))
    ]
    preprocessing.fit(raw[0])
    backbone = graph(MIXED, **SMALL).eval()
    backbone.fit(preprocessing(raw[0]), chance(seed))  # type: ignore[operator]
    changed = {name: torch.where(view[name], raw[1][name], raw[2][name]) for name in view}
    assert backbone(preprocessing(raw[1])).equal(backbone(preprocessing(changed)))


# ------------------------------------------------------------------------------------------------------------- training


def trained(backbone: nn.Module, batch: Batch, y: Tensor, steps: int) -> tuple[nn.Module, list[float]]:
    """A few steps on all rows, and the losses."""
    network = nn.Sequential(backbone, nn.Linear(backbone.features, 1)).train()  # type: ignore[arg-type]
    optimizer, losses = torch.optim.Adam(network.parameters(), 0.02), []
    for _ in range(steps):
        loss = F.binary_cross_entropy_with_logits(network(batch)[:, 0], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return network.eval(), losses


def accuracy(network: nn.Module, batch: Batch, y: Tensor) -> float:
    return float(((network(batch)[:, 0] > 0) == (y > 0)).float().mean())


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@needs_package
def test_it_learns_two_moons(convolution: Any) -> None:
    x, y = make_moons(400, noise=0.15, random_state=0)
    numbers = torch.from_numpy((x - x.mean(0)) / x.std(0)).float()
    batch, target = {"numeric": torch.cat([numbers, torch.zeros_like(numbers)], 1)}, torch.from_numpy(y).float()
    train, test = ({name: v[part] for name, v in batch.items()} for part in (slice(200), slice(200, None)))
    torch.manual_seed(0)
    backbone = graph(Schema(numeric=["a", "b"], targets={}), anchors=40, width=16, heads=2, convolution=convolution)
    backbone.fit(train, chance(0))  # type: ignore[operator]
    network, losses = trained(backbone, train, target[:200], 60)
    assert losses[-1] < losses[0] / 4
    assert accuracy(network, test, target[200:]) > 0.95


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@needs_package
def test_what_neighbours_know_is_used(convolution: Any) -> None:
    """Rows come in 20 clusters, each of one class at random, and have a column that tells it with much noise: a row's own value
    is right in Φ(1/1.5) = 75 of 100 cases, the mean over rows of its cluster nearly always."""
    random = np.random.default_rng(0)
    centers, labels = random.normal(0, 20, (20, 2)), np.arange(20) % 2
    groups = np.arange(400) % 20
    noisy = 2 * labels[groups] - 1 + random.normal(0, 1.5, 400)
    values = np.column_stack([centers[groups] + random.normal(0, 0.05, (400, 2)), noisy])
    batch = {"numeric": torch.from_numpy(np.hstack([values, np.zeros((400, 3))])).float()}
    batch["numeric"][:, 2] *= 0.05  # so that place tells who is near
    target = torch.from_numpy(labels[groups]).float()
    train, test = ({"numeric": batch["numeric"][part]} for part in (slice(200), slice(200, None)))
    said = []
    for alone in (False, True):
        torch.manual_seed(0)
        backbone = graph(NUMERIC, anchors=200, width=8, heads=2, layers=1, dropout=0.0, convolution=convolution)
        if not alone:
            backbone.fit(train, chance(0))  # type: ignore[operator]
        nn.init.zeros_(backbone.get_parameter("first.weight")[:, :2])
        network, _ = trained(_Blind(backbone), train, target[:200], 60)
        said.append(accuracy(network, test, target[200:]))
    assert said[0] > 0.9
    assert said[1] < 0.8


class _Blind(nn.Module):
    """A graph network whose messages hold the third column alone, so that it can't learn the places of the clusters by heart."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone, self.features = backbone, backbone.features
        backbone.first.weight.register_hook(lambda gradient: gradient * torch.tensor([0.0, 0, 1, 1, 1, 1]))

    def forward(self, batch: Batch) -> Tensor:
        out: Tensor = self.backbone(batch)
        return out


# ------------------------------------------------------------------------------------------------------------- refusals


def test_without_the_package_it_says_what_to_install(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torch_geometric"] + ["torch_geometric"]:
        monkeypatch.setitem(sys.modules, name, None)
    sentence = refusal(RecipeError, graph, NUMERIC)
    assert "pip install 'fuseline[graph]'" in sentence


@pytest.mark.parametrize(
    ("chosen", "word"),
    [
        ({"anchors": 8, "neighbours": 8}, "8 anchors"),
        ({"anchors": 8, "neighbours": 9}, "9 neighbours"),
        ({"width": 10, "heads": 4, "convolution": "gat"}, "10"),
    ],
)
def test_it_refuses_what_it_cannot_do(refusal: Callable[..., str], chosen: dict[str, Any], word: str) -> None:
    sentence = refusal(RecipeError, graph, NUMERIC, **chosen)
    assert "'graph'" in sentence
    assert word in sentence


@pytest.mark.parametrize(
    "chosen",
    [{"anchors": 1}, {"neighbours": 0}, {"convolution": "gcn"}, {"width": 0}, {"layers": 0}, {"heads": 0}, {"dropout": 1}],
)
def test_settings_have_bounds(refusal: Callable[..., str], chosen: dict[str, Any]) -> None:
    sentence = refusal(RecipeError, complete, Component(name="graph", settings=chosen), {"graph": graph}, "f")
    assert f"f.graph.{next(iter(chosen))}" in sentence


@needs_package
def test_a_hidden_category_is_a_missing_one_to_its_neighbours_too() -> None:
    backbone, batch = fitted(WORDS), rows(1, 9, WORDS)
    hidden = {"categorical": batch["categorical"].clone()}
    hidden["categorical"][:, 0] = MISSING
    apart = distances(hidden, backbone.anchors)
    expected = 2.0 * (hidden["categorical"][:, None] != backbone.anchors["categorical"][None]).sum(2)
    assert apart.equal(expected)
    assert not backbone(hidden).equal(backbone(batch))
