"""What tests of faults share: one Prefect server, one run that nothing disturbs, and a site for each test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Site


@pytest.fixture(scope="session")
def new_site(
    server: str,
    ask: Callable[..., Any],
    environment: Callable[..., Any],
    runs_of: Callable[..., Any],
    tracked: Callable[..., Any],
) -> Any:
    """A site in a folder; its commands use the session's Prefect server unless they are told otherwise."""

    def make(folder: Path) -> Site:
        return Site(folder, environment(folder / "home", PREFECT_API_URL=server), ask, runs_of, tracked)

    return make


@pytest.fixture
def sites(new_site: Callable[[Path], Site], tmp_path: Path) -> Iterator[Callable[[str], Site]]:
    """Sites of one's own, by name. Nothing may be left of their commands."""
    made: list[Site] = []

    def make(name: str) -> Site:
        made.append(new_site(tmp_path / name))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def site(sites: Callable[[str], Site], request: pytest.FixtureRequest) -> Site:
    """A site of one's own. Nothing may be left of its commands."""
    return sites(re.sub(r"\W+", "-", request.node.name)[:40])


@pytest.fixture(scope="session")
def undisturbed(new_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose one run was not disturbed."""
    made = new_site(tmp_path_factory.mktemp("undisturbed"))
    assert made.train().finish().summary["trained"] == 3
    yield made
    made.close()
