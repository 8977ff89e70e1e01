"""What Prefect's server does by itself when something has happened, or has not."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import AutomationCore

from fuseline.recipe import Recipe

SILENCE = 180
"""Seconds without a heartbeat, of which there are six in that time, after which the process of a run is taken for dead."""


def retrain_when_it_drifts(client: SyncPrefectClient, recipe: Recipe, deployment: UUID) -> None:
    """Run a recipe's training once an evaluation says that its model's inputs have drifted, or that it has become worse."""
    trigger = {
        "type": "event",
        "posture": "Reactive",
        "expect": ["fuseline.drift", "fuseline.regression"],
        "match": {"prefect.resource.id": f"fuseline.model.{recipe.registered_name}"},
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": 0,
    }
    action = {"type": "run-deployment", "source": "selected", "deployment_id": str(deployment)}
    _put(client, f"fuseline: retrain {recipe.name} when it drifts", trigger, action)


def silent_runs_have_crashed(client: SyncPrefectClient) -> None:
    """Let runs whose worker died with them end as crashed: nobody is left who would say so."""
    beat, ends = "prefect.flow-run.heartbeat", ("Completed", "Failed", "Cancelled", "Crashed")
    trigger = {
        "type": "event",
        "posture": "Proactive",
        "after": [beat],
        "expect": [beat, *(f"prefect.flow-run.{end}" for end in ends)],
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": SILENCE,
    }
    action = {"type": "change-flow-run-state", "state": "CRASHED", "message": "Its process has gone silent."}
    _put(client, "fuseline: runs that have gone silent have crashed", trigger, action)


def _put(client: SyncPrefectClient, name: str, trigger: dict[str, Any], action: dict[str, Any]) -> None:
    automation = AutomationCore.model_validate({"name": name, "trigger": trigger, "actions": [action]})
    known = client.read_automations_by_name(name)
    if known:
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)
