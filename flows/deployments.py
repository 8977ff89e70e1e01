"""The deployments of ``prefect.yaml``, and one for each recipe, put up through Prefect's own client."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel, ValidationError

from flows.automations import retrain_when_it_drifts, silent_runs_have_crashed
from flows.worker import POOL
from fuseline.component import Component
from fuseline.errors import FuselineError, UserError
from fuseline.recipe import Recipe
from fuseline.yaml12 import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "prefect.yaml"
TRAINING = "flows.train:train"


def deploy_all(recipes: Sequence[Recipe], cron: str | None, timezone: str, retrain: bool) -> dict[str, str]:
    """Put everything up, over what is there by the same names; the pages of the deployments by their names.

    Raises:
        UserError: there is no server to talk to, it wants a password, or the schedule is wrong.
    """
    tree = _definitions()
    schedules = _schedules(cron, timezone)
    training = next(entry for entry in tree["deployments"] if entry["entrypoint"] == TRAINING)
    done = {}
    with _server() as (client, address):
        _ensure_pool(client)
        for entry in tree["deployments"]:
            name, identity = _deploy(client, entry, tree["pull"])
            done[name] = f"{address}/deployments/deployment/{identity}"
        for recipe in recipes:
            entry = {**training, "name": recipe.name, "description": recipe.description or training["description"]}
            name, identity = _deploy(client, entry, tree["pull"], {"recipe": written_out(recipe)}, schedules)
            done[name] = f"{address}/deployments/deployment/{identity}"
            if retrain:
                retrain_when_it_drifts(client, recipe, identity)
        silent_runs_have_crashed(client)
    return done


def written_out(value: Any) -> Any:
    """A recipe as the parameter of a deployment: everything written out, each component as name and settings, which is what the
    form on Prefect's page shows."""
    if isinstance(value, Component):
        return {"name": value.name, "settings": value.settings}
    if isinstance(value, BaseModel):
        return {name: written_out(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {name: written_out(part) for name, part in value.items()}
    return [written_out(part) for part in value] if isinstance(value, list | tuple) else value


def _deploy(
    client: SyncPrefectClient,
    entry: Mapping[str, Any],
    pull: list[dict[str, Any]],
    parameters: dict[str, Any] | None = None,
    schedules: list[DeploymentScheduleCreate] | None = None,
) -> tuple[str, UUID]:
    flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"])
    limit = entry.get("concurrency_limit") or {}
    options = {name: value for name, value in limit.items() if name != "limit"}
    identity = client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=entry["name"],
        entrypoint=entry["entrypoint"],
        description=entry.get("description"),
        tags=entry.get("tags"),
        work_pool_name=entry["work_pool"]["name"],
        job_variables=dict(entry["work_pool"]["job_variables"]),
        concurrency_limit=limit.get("limit"),
        concurrency_options=options or None,  # type: ignore[arg-type]
        pull_steps=[dict(step) for step in pull],
        parameters=parameters,
        schedules=schedules,
        parameter_openapi_schema=parameter_schema(flow).model_dump(),
        enforce_parameter_schema=True,
    )
    return f"{flow.name}/{entry['name']}", identity


def _definitions() -> Any:
    """``prefect.yaml`` of the working folder, else fuseline's own."""
    here = Path(__file__)
    places = [Path(FILE), here.with_name(FILE), here.parents[1] / FILE]
    file = next(place for place in places if place.is_file())
    try:
        tree = parse(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not readable as YAML 1.2: {error}.") from None
    if TRAINING not in [entry.get("entrypoint") for entry in tree.get("deployments") or []]:
        raise UserError(f"{file}: deployments: none has the entry point {TRAINING}; recipes are deployed as that one is.")
    return tree


def _schedules(cron: str | None, timezone: str) -> list[DeploymentScheduleCreate]:
    if cron is None:
        return []
    try:
        return [DeploymentScheduleCreate(schedule=CronSchedule(cron=cron, timezone=timezone))]
    except ValidationError as error:
        raise UserError(f"--cron {cron!r}, --timezone {timezone!r}: {error.errors()[0]['msg']}.") from None


def _ensure_pool(client: SyncPrefectClient) -> None:
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))


@contextmanager
def _server() -> Iterator[tuple[SyncPrefectClient, str]]:
    """A client of the server at PREFECT_API_URL, and the address of its pages."""
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        raise UserError("there is no Prefect server to deploy to; run 'fuseline up', and set PREFECT_API_URL as it says.")
    try:
        with get_client(sync_client=True) as client:
            yield client, address.removesuffix("/api")
    except PrefectHTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise UserError(f"Prefect's server at {address} wants a password; set PREFECT_API_AUTH_STRING.") from None
        raise FuselineError(f"Prefect's server at {address} refused: {error.response.text}") from None
    except httpx.TransportError:
        raise FuselineError(f"Prefect's server at {address} does not answer.") from None
