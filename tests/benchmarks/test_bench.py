"""The driver of the benchmarks on cases that take no time, and what it makes of their numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

HERE = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(HERE))
import bench  # noqa: E402
from speed import bare_stack, plain, rate, tables, verdicts  # noqa: E402
from speed.cases import CASES, Case, Check, Claim, Side, same_accuracy  # noqa: E402
from speed.growth import slopes  # noqa: E402
from speed.material import digits, imagined, interval, scored  # noqa: E402
from speed.turns import BenchError, measure  # noqa: E402

sys.path.remove(str(HERE))


def a_case(**changes: Any) -> Case:
    """Two sides that only say how long their arguments are."""
    side = {
        name: Side("tiny:said", {"seconds": seconds}, {"seconds": 2 * seconds})
        for name, seconds in (("slow", 6.0), ("fast", 2.0))
    }
    claims = (Claim("slow over fast", "slow", "fast", least=3), Claim("fast alone", "fast", most=1, unit="s"))
    return Case(
        "tiny", side, claims, (Check("fast is faster", lambda f: f["fast"]["seconds"] < f["slow"]["seconds"]),), **changes
    )


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of sides that the driver's processes find; what is run, in which order, is written down."""
    text = """
import json, os
from pathlib import Path

LOG = Path(__file__).with_name("log.txt")

def said(seconds, round, folder=None):
    with LOG.open("a") as log:
        log.write(f"{seconds} {round} {os.getpid()} {os.environ['FUSELINE_HOME']}\\n")
    print("some chatter")
    return {"seconds": seconds + (round == 1), **({} if folder is None else json.loads((Path(folder) / "made.json").read_text()))}

def prepare(folder, made):
    (Path(folder) / "made.json").write_text(json.dumps({"made": made}))

def greedy():
    kept = bytearray(os.urandom(1)) * (200 << 20)
    return {"kept": len(kept), "sum": sum(sum(kept[::64]) for _ in range(10))}

def fails():
    raise ValueError("no such thing")
"""
    (tmp_path / "tiny.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_sides_take_turns_in_processes_of_their_own(tiny: Path) -> None:
    told: list[str] = []
    found = measure(a_case(), 2, False, told.append)
    assert found == {"slow": [{"seconds": 6.0}, {"seconds": 7.0}], "fast": [{"seconds": 2.0}, {"seconds": 3.0}]}
    lines = [line.split() for line in (tiny / "log.txt").read_text().splitlines()]
    assert [line[:2] for line in lines] == [["6.0", "0"], ["2.0", "0"], ["6.0", "1"], ["2.0", "1"]]
    assert len({line[2] for line in lines}) == 4
    assert all(not Path(line[3]).exists() for line in lines)
    assert len(told) == 4


def test_what_is_prepared_once_is_given_to_every_round(tiny: Path) -> None:
    case = a_case(prepare=Side("tiny:prepare", {"made": 5}, {"made": 1}))
    assert [said["made"] for said in measure(case, 2, True, lambda _: None)["slow"]] == [1, 1]
    assert measure(case, 1, True, lambda _: None)["fast"] == [{"seconds": 4.0, "made": 1}]


def test_the_peak_of_anonymous_memory_is_seen(tiny: Path) -> None:
    [said] = measure(Case("tiny", {"one": Side("tiny:greedy")}, (), watched=True), 1, False, lambda _: None)["one"]
    assert said["kept"] / 2**30 < said["gib"] < said["kept"] / 2**30 + 0.5


def test_a_side_that_fails_is_told_with_its_own_words(tiny: Path) -> None:
    with pytest.raises(BenchError, match=r"tiny:fails ended with code 1:(.|\n)*no such thing"):
        measure(Case("tiny", {"one": Side("tiny:fails")}, ()), 1, False, lambda _: None)


def test_a_case_is_judged_by_medians_and_by_the_ratios_of_rounds() -> None:
    slow, fast = [6.0, 7.0, 20.0], [2.0, 3.5, 1.0]
    found = {"slow": [{"seconds": s} for s in slow], "fast": [{"seconds": s} for s in fast]}
    judged = verdicts.judged(a_case(), found)
    first, second = judged["claims"]
    assert (first["value"], first["low"], first["high"], first["met"]) == (7.0 / 2.0, 2.0, 20.0, True)
    assert (second["value"], second["low"], second["high"], second["met"]) == (2.0, 1.0, 3.5, False)
    assert (first["asked"], second["asked"]) == ("at least 3", "at most 1 s")
    assert judged["checks"] == [{"says": "fast is faster", "holds": True}]
    assert judged["sides"]["slow"]["seconds"]["values"] == slow


def test_nothing_is_asked_of_a_machine_that_lacks_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Claim("x", "one", least=2, needs="bf16")
    monkeypatch.setattr(verdicts, "units", lambda: ["avx2"])
    assert verdicts.met(claim, 1.0) is None
    monkeypatch.setattr(verdicts, "units", lambda: ["avx2", "bf16"])
    assert verdicts.met(claim, 1.0) is False


@pytest.mark.parametrize(("other", "same"), [(0.96, True), (0.90, False), (1.0, False)])
def test_accuracies_are_the_same_within_each_others_intervals(other: float, same: bool) -> None:
    found = {"a": {"accuracy": 0.97, "rows": 360.0}, "b": {"accuracy": other, "rows": 360.0}}
    assert same_accuracy("a", "b").holds(found) is same
    low, high = interval(0.97, 360)
    assert low < 0.97 < high


def test_the_command_writes_json_pictures_and_the_document(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases that are not asked for keep what was measured before."""
    monkeypatch.setitem(bench.CASES, "tiny", a_case())
    monkeypatch.setattr(bench, "AXES", {"members": [1, 2]})
    monkeypatch.setattr(
        bench, "growing", lambda *_: {"members": {"sizes": [1, 2], "seconds": [verdicts.spread([1.0]), verdicts.spread([3.0])]}}
    )
    document, results = tiny / "performance.md", tiny / "results"
    document.write_text("".join(f"<!-- {name} --><!-- end -->\n" for name in ("board", "sides", "checks", "machine", "growth")))
    given = ["--rounds", "1", "--results", str(results), "--document", str(document)]
    assert bench.main(["--only", "tiny", *given]) == 0
    assert bench.main(["--only", "growth", *given]) == 0
    kept = json.loads((results / "bench.json").read_text())
    assert list(kept["cases"]) == ["tiny"]
    assert kept["cases"]["tiny"]["claims"][0]["value"] == 3.0
    assert {file.name for file in results.iterdir()} == {"bench.json", "bench.png", "growth.png"}
    text = document.read_text()
    assert "| slow over fast | 3.00 | one round | at least 3 | ✓ |" in text
    assert "| fast alone | 2.00 s | one round | at most 1 s | ✗ |" in text
    assert "| members | 1: 1.00, 2: 3.00 | 1.58 | 1.58 |" in text


def test_a_failed_case_is_named_and_the_others_are_measured(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bench.CASES, "tiny", a_case())
    monkeypatch.setitem(bench.CASES, "broken", Case("broken", {"one": Side("tiny:fails")}, ()))
    given = ["--rounds", "1", "--results", str(tiny / "results"), "--only", "broken", "tiny"]
    assert bench.main(given) == 1
    assert "not measured: broken" in capsys.readouterr().err
    assert list(json.loads((tiny / "results" / "bench.json").read_text())["cases"]) == ["tiny"]


def test_every_side_names_a_function_that_is_there() -> None:
    for case in CASES.values():
        for side in [*case.sides.values(), *([case.prepare] if case.prepare else [])]:
            module, function = side.function.split(":")
            assert f"\ndef {function}(" in (HERE / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
            assert set(side.small) <= set(side.settings)
        for claim in case.claims:
            assert {claim.over, claim.under or claim.over} <= set(case.sides)


def test_the_bare_stack_is_40_lines_and_each_of_its_members_is_a_plain_network() -> None:
    """Its members' outputs and gradients are those of plain networks with the same weights."""
    text = (HERE / "speed" / "bare_stack.py").read_text(encoding="utf-8")
    assert len([line for line in text.splitlines() if line.strip()]) <= 40
    torch.manual_seed(0)
    x, y = torch.randn(256, 5), torch.randint(0, 3, (256,))
    tensors = bare_stack.train(x, y, [5, 4, 3], 2, 1, 64, 1e-2)
    networks = [plain.mlp(5, [4], 3) for _ in range(2)]
    for member, network in enumerate(networks):
        for parameter, tensor in zip(network.parameters(), tensors, strict=True):
            parameter.data = (
                tensor.detach()[member].squeeze(0).T.clone() if parameter.ndim == 2 else tensor.detach()[member, 0].clone()
            )
    torch.testing.assert_close(bare_stack.predict(tensors, x), plain.predict(networks, x))
    loss = F.cross_entropy(bare_stack.forward(tensors, x.expand(2, -1, -1)).flatten(0, 1), y.repeat(2), reduction="sum") / len(x)
    gradients = torch.autograd.grad(loss, tensors)
    for member, network in enumerate(networks):
        F.cross_entropy(network(x), y).backward()
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            own = gradient[member] if parameter.ndim == 2 else gradient[member, 0]
            torch.testing.assert_close(parameter.grad, own.T if parameter.ndim == 2 else own)


def test_the_bare_stack_learns_the_digits() -> None:
    material = digits()
    x, test = (torch.from_numpy(part.reshape(len(part), -1) / 16).float() for part in (material.x, material.test_x))
    torch.manual_seed(0)
    tensors = bare_stack.train(x, torch.from_numpy(material.y), [64, 32, 10], 3, 15, 32, plain.RATE)
    assert scored(bare_stack.predict(tensors, test).numpy(), material.test_y)["accuracy"] > 0.9


def test_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    tensors = [torch.randn(3, a, b, requires_grad=True) for a, b in zip(rate.WIDTHS[:-1], rate.WIDTHS[1:], strict=True)]
    with FlopCounterMode(display=False) as counter:
        h = torch.randn(3, 7, rate.WIDTHS[0])
        for tensor in tensors:
            h = torch.bmm(h, tensor)
        h.sum().backward()
    assert rate.products(3, 7) == counter.get_total_flops()


def test_imagined_members_say_distributions_and_differ_in_quality() -> None:
    said, truth = imagined(10, 500, 6)
    np.testing.assert_allclose(said.sum(2), 1, rtol=1e-5)
    losses = -np.log(said[:, np.arange(500), truth]).mean(1)
    assert losses.max() > 1.3 * losses.min()
    np.testing.assert_array_equal(imagined(10, 500, 6)[0], said)


def test_slopes_are_those_of_a_power() -> None:
    sizes = [1, 3, 10, 100]
    assert slopes(sizes, [2 * size**1.25 for size in sizes]) == pytest.approx((1.25, 1.25))


def test_numbers_keep_three_digits_that_count() -> None:
    assert [tables.number(x) for x in (0.0, 0.00123, 1.5, 23.45, 1234.5)] == ["0", "0.00123", "1.50", "23.4", "1,234"]
