"""Let a version become the champion, if it is better."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from fuseline.errors import first_line
from fuseline.planned import Planned
from fuseline.tracking.promote import Outcome, promote, settled
from fuseline.tracking.settings import load_settings
from tasks.artifacts import unhindered
from tasks.records import PlanRecord, RunRecord
from tasks.tracking import registered

DEPLOYMENT = "promote/on-demand"
"""It runs one at a time, so that a team's promotions follow each other whatever machine they come from."""


@task(name="promote", task_run_name="promote {name}/{version}", cache_policy=NO_CACHE, persist_result=False)
def promote_version(name: str, version: int, reason: str | None = None) -> Outcome:
    """See :func:`fuseline.tracking.promote.promote`."""
    return shown(promote(load_settings(), name, version, reason))


@task(name="promote what was trained", cache_policy=NO_CACHE, persist_result=False)
def promote_trained(record: PlanRecord, run: RunRecord, is_registered: bool = True) -> Outcome:
    """What becomes of the version that a run registers; what keeps it from being judged does not keep the run from finishing."""
    recipe = Planned.open(record.folder).recipe
    name = recipe.registered_name
    if not is_registered:
        return Outcome(name, None, "manual", "It is one candidate of many, and not registered.")
    if recipe.registry.promote == "manual":
        text = f"registry.promote is 'manual', so that nobody has judged it; fuseline promote {name} VERSION does"
        return Outcome(name, None, "manual", f"{text}.")
    version = registered(run)
    if version is None:
        text = "MLflow has not been told of the version yet; the next run of the recipe, or fuseline promote, judges it then"
        return Outcome(name, None, "waiting", f"{text}.")
    settings = load_settings()
    try:
        if (known := settled(settings, name, version)) is not None:
            return known
        if is_deployed():
            run_deployment(DEPLOYMENT, parameters={"name": name, "version": version}, timeout=0, as_subflow=False)
            return Outcome(name, version, "waiting", f"{DEPLOYMENT} was asked to judge it; fuseline history {name} tells.")
        return shown(promote(settings, name, version))
    except Exception as error:
        get_run_logger().warning("version %s of %s was not judged: %s", version, name, first_line(error))
        return Outcome(name, version, "waiting", f"It was not judged: {first_line(error)}.")


def is_deployed() -> bool:
    """Whether the Prefect server has the deployment that a team's promotions go through."""
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            return False
    return True


def shown(outcome: Outcome) -> Outcome:
    """With the verdict on Prefect's page."""
    if outcome.verdict is not None:
        text = f"## {outcome.name}/{outcome.version}: {outcome.state}\n\n```\n{outcome.text()}\n```"
        with unhindered("the verdict"):
            create_markdown_artifact(text, key=f"verdict-{outcome.name}".lower().replace("_", "-"), description=outcome.why)
    return outcome
