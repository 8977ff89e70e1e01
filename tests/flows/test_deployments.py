"""Deployments: what stands in prefect.yaml, and recipes as parameters that Prefect accepts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fuseline.errors import UserError
from fuseline.recipe import Recipe, load_recipe
from fuseline.yaml12 import parse

ROOT = Path(__file__).parents[2]
TREE = parse((ROOT / "prefect.yaml").read_text())


@pytest.fixture(scope="module")
def schema() -> Any:
    """What Prefect knows of the parameters of the training flow."""
    from prefect.utilities.callables import parameter_schema

    from flows.train import train

    return parameter_schema(train).model_dump()


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_written_out_is_the_same_recipe_and_a_valid_parameter(file: Path, schema: Any) -> None:
    from flows.deployments import written_out

    recipe = load_recipe(file)
    tree = written_out(recipe)
    assert Recipe.model_validate(tree) == recipe
    jsonschema.validate({"recipe": tree}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"recipe": {**tree, "sede": 1}}, schema)


@pytest.mark.parametrize("entry", TREE["deployments"], ids=lambda entry: entry["entrypoint"])
def test_every_entry_point_is_a_flow(entry: Any) -> None:
    from prefect import Flow
    from prefect.flows import load_flow_from_entrypoint

    flow: Any = load_flow_from_entrypoint(entry["entrypoint"])
    assert isinstance(flow, Flow)
    assert flow.name == entry["entrypoint"].partition(":")[2]


def test_promotions_go_one_at_a_time() -> None:
    entry = next(entry for entry in TREE["deployments"] if entry["entrypoint"] == "flows.promote:promote")
    assert entry["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_runs_work_in_the_folder_of_their_worker() -> None:
    assert TREE["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $FUSELINE_FOLDER }}"}}]


def test_without_a_server_there_is_nothing_to_deploy_to(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.deployments import deploy_all

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(UserError, match="run 'fuseline up'"):
        deploy_all([], None, "UTC", False)


@pytest.mark.parametrize(("cron", "timezone"), [("every night", "UTC"), ("0 2 * * *", "Mars/Olympus")])
def test_a_schedule_that_is_none_is_refused(home: Path, cron: str, timezone: str) -> None:
    from flows.deployments import deploy_all

    with pytest.raises(UserError, match=re.escape(cron)):
        deploy_all([], cron, timezone, False)
