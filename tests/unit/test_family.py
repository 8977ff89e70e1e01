"""Families: fuseline's own functions, those of an installed package by real entry points, and those that are found late."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.family import Family, _version, installed
from fuseline.partition import PARTITIONS, Pool, check_shares, kfold

SOURCE = """
from typing import Annotated

from pydantic import Field

from fuseline.partition import Share


def every(pool, members, generator, *, step: Annotated[int, Field(ge=1)] = 2):
    '''Member m gets every step-th row, from the m-th on.'''
    return [[Share(pool.rows[m % step :: step])] for m in range(len(members))]
"""
ENTRY_POINTS = """
[fuseline.partitions]
acme_every = acme_rules.shares:every
kfold = acme_rules.shares:every

[fuseline.others]
single = acme_single:answer
broken = acme_rules.nothing:here
nameless = acme_rules.shares:nobody
spread = acme_space.deep.rules:answer
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution, acme-rules 0.3.1, of a package, a single module and a package without ``__init__.py``; the
    folder where they are."""
    package, facts = tmp_path / "acme_rules", tmp_path / "acme_rules-0.3.1.dist-info"
    package.mkdir()
    facts.mkdir()
    (package / "__init__.py").write_text("")
    (package / "shares.py").write_text(SOURCE)
    (tmp_path / "acme_single.py").write_text("def answer():\n    return 42\n")
    (tmp_path / "acme_space" / "deep").mkdir(parents=True)
    (tmp_path / "acme_space" / "deep" / "rules.py").write_text("def answer():\n    return 41\n")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-rules\nVersion: 0.3.1\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    (facts / "RECORD").write_text("acme_rules/__init__.py,,\nacme_rules/shares.py,,\nacme_single.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()


def forget() -> None:
    """Nothing of an earlier distribution is remembered."""
    installed.cache_clear()
    _version.cache_clear()
    for name in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[name]


def others(**own: Callable[..., Any]) -> Family:
    return Family(own, "fuseline.others")


# ------------------------------------------------------------------------------------------------------------ partitions


def test_a_partition_rule_of_another_package_divides_the_rows(acme: Path) -> None:
    rule = complete(Component(name="acme_every", settings={"step": 3}), PARTITIONS, "partition")
    rows = np.arange(5, 17)
    pool = Pool(rows, np.zeros(12, np.int64), np.arange(12))
    generators = [np.random.default_rng(seed) for seed in range(3)]
    shares = PARTITIONS[rule.name](pool, generators, np.random.default_rng(0), **rule.settings)
    check_shares(shares, ["a", "b", "c"], {}, {})
    assert [share.train.tolist() for (share,) in shares] == [[5, 8, 11, 14], [6, 9, 12, 15], [7, 10, 13, 16]]


def test_its_settings_are_checked(acme: Path, refusal: Callable[..., str]) -> None:
    assert complete(Component(name="acme_every"), PARTITIONS, "partition").settings == {"step": 2}
    for settings, path in (({"step": 0}, "partition.acme_every.step"), ({"stride": 2}, "partition.acme_every.stride")):
        assert refusal(
            RecipeError, complete, Component(name="acme_every", settings=settings), PARTITIONS, "partition"
        ).startswith(f"{path}: ")
    assert "did you mean 'acme_every'?" in refusal(RecipeError, complete, Component(name="acme_evry"), PARTITIONS, "partition")


def test_fuselines_own_come_first(acme: Path) -> None:
    assert PARTITIONS["kfold"] is kfold
    assert PARTITIONS.requirement("kfold") is None
    assert PARTITIONS.version("kfold") == ""
    assert list(PARTITIONS).count("kfold") == 1


# -------------------------------------------------------------------------------------------------------------- the mapping


def test_a_family_is_a_mapping_of_all_its_functions(acme: Path) -> None:
    family = Family({"own": len}, "fuseline.others", more=lambda: {"late": max, "own": min, "single": min})
    assert list(family) == ["own", "single", "broken", "nameless", "spread", "late"]
    assert len(family) == 6
    assert all(name in family for name in family)
    assert "none" not in family
    assert family["own"] is len
    assert family["single"]() == 42
    assert family["late"] is max
    with pytest.raises(KeyError):
        family["none"]


def test_functions_that_are_found_late_are_borrowed(acme: Path) -> None:
    family = Family({"own": len}, "fuseline.others", more=lambda: {"late": max})
    assert [family.borrowed(name) for name in ("own", "single", "late")] == [False, False, True]
    assert family.requirement("late") is None
    assert family.version("late") == ""


def test_nothing_is_looked_for_before_it_is_asked_for(acme: Path) -> None:
    def slow() -> dict[str, Callable[..., Any]]:
        raise AssertionError("nobody asked for this")

    family = Family({"own": len}, "fuseline.others", more=slow)
    assert family["own"] is len
    assert "single" in family
    assert "acme_single" not in sys.modules
    assert family["single"]() == 42


def test_what_an_entry_point_holds_is_adapted_and_own_functions_are_not(acme: Path) -> None:
    family = Family({"own": len}, "fuseline.others", adapt=lambda found: lambda: found() + 1)
    assert family["single"]() == 43
    assert family["own"] is len


@pytest.mark.parametrize(("name", "value"), [("broken", "acme_rules.nothing:here"), ("nameless", "acme_rules.shares:nobody")])
def test_an_entry_point_that_can_not_be_loaded_is_named(acme: Path, refusal: Callable[..., str], name: str, value: str) -> None:
    sentence = refusal(RecipeError, others().__getitem__, name)
    assert sentence.startswith(f"{name!r} of acme-rules can't be loaded ({value}): ")
    assert sentence == refusal(RecipeError, complete, Component(name=name), others(), "partition")
    assert name in others()  # only who asks for it is told


def test_without_packages_there_are_own_functions_only() -> None:
    family = Family({"own": len}, "fuseline.nobody")
    assert dict(family) == {"own": len}


# ----------------------------------------------------------------------------------------------------- version, requirement


def test_what_must_be_installed_is_named_with_its_version(acme: Path) -> None:
    assert PARTITIONS.requirement("acme_every") == "acme-rules==0.3.1"
    assert PARTITIONS.requirement("none") is None


def test_the_version_follows_from_the_source_of_the_package(acme: Path) -> None:
    def now() -> str:
        _version.cache_clear()
        return PARTITIONS.version("acme_every")

    first = now()
    assert first.startswith("acme-rules==0.3.1 ")
    assert now() == first
    (acme / "acme_rules" / "helper.py").write_text("x = 1\n")
    second = now()
    (acme / "acme_rules" / "helper.py").write_text("x = 2\n")
    third = now()
    (acme / "acme_rules" / "notes.txt").write_text("this is no source")
    assert now() == third
    (acme / "acme_rules" / "helper.py").unlink()
    assert now() == first
    assert len({first, second, third}) == 3


def test_the_version_follows_from_the_release(acme: Path) -> None:
    before = PARTITIONS.version("acme_every")
    facts = acme / "acme_rules-0.3.1.dist-info"
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-rules\nVersion: 0.4\n")
    forget()
    after = PARTITIONS.version("acme_every")
    assert after.startswith("acme-rules==0.4 ")
    assert after.split()[1] == before.split()[1]


def test_the_version_of_a_single_module_is_that_of_its_file(acme: Path) -> None:
    family = others()
    before = family.version("single")
    (acme / "acme_rules" / "shares.py").write_text("")  # another package beside it
    _version.cache_clear()
    assert family.version("single") == before
    (acme / "acme_single.py").write_text("def answer():\n    return 43\n")
    _version.cache_clear()
    assert family.version("single") != before


def test_a_package_without_an_init_file_has_a_version_too(acme: Path) -> None:
    family, file = others(), acme / "acme_space" / "deep" / "rules.py"
    assert family["spread"]() == 41
    before = family.version("spread")
    assert before.startswith("acme-rules==0.3.1 ")
    file.write_text("def answer():\n    return 42\n")
    _version.cache_clear()
    assert family.version("spread") != before


def test_the_version_tells_where_in_a_package_a_file_lies(acme: Path) -> None:
    """Files of one name and content in other folders are another package."""
    package = acme / "acme_rules"
    for folder in ("one", "two"):
        (package / folder).mkdir()
    (package / "one" / "x.py").write_text("a = 1\n")
    before = PARTITIONS.version("acme_every")
    (package / "one" / "x.py").rename(package / "two" / "x.py")
    _version.cache_clear()
    assert PARTITIONS.version("acme_every") != before
