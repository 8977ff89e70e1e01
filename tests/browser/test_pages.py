"""What people see: MLflow's and Prefect's own pages, in a real browser, after a night that came by itself."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Servers

SCREENSHOTS = Path(__file__).with_name("screenshots")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
PATIENCE = 120_000
"""Milliseconds."""


@pytest.fixture(scope="module")
def browser(night: Any) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def mlflow(browser: Any, servers: Servers) -> Iterator[Any]:
    name, password = servers.mlflow_user
    context = browser.new_context(http_credentials={"username": name, "password": password}, viewport=SIZE)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    context.close()


@pytest.fixture
def prefect(browser: Any, servers: Servers) -> Iterator[Any]:
    """A page on which somebody has given Prefect's name and password."""
    context = browser.new_context(viewport=SIZE)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(servers.prefect)
    page.locator("input[type=password]").fill(":".join(servers.prefect_user))
    page.keyboard.press("Enter")
    page.locator("input[type=password]").wait_for(state="detached")
    yield page
    context.close()


SIZE = {"width": 1400, "height": 900}


def shoot(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


@pytest.fixture(scope="module")
def parent(night: Any, servers: Servers) -> Any:
    """MLflow's record of the night."""
    return next(run for run in reversed(servers.runs("night")) if run["info"]["run_name"] == "night")["info"]


def test_mlflow_shows_the_run_with_its_members_nested(mlflow: Any, parent: Any, servers: Servers) -> None:
    mlflow.goto(f"{servers.mlflow}/#/experiments/{parent['experiment_id']}/runs")
    mlflow.get_by_text("night", exact=True).first.wait_for()
    mlflow.locator("button[data-component-id*=runnamecellrenderer]").last.click()  # what the night's run has under it
    for name in ("north", "south", "fusion mean"):
        mlflow.get_by_text(name, exact=True).first.wait_for()
    shoot(mlflow, "mlflow-runs")


def test_mlflow_shows_a_runs_pictures(mlflow: Any, parent: Any, servers: Servers) -> None:
    place = f"{servers.mlflow}/#/experiments/{parent['experiment_id']}/runs/{parent['run_id']}/artifacts"
    mlflow.goto(f"{place}/pictures/leaderboard-kind.png")
    mlflow.get_by_text("leaderboard-kind.png").first.wait_for()
    mlflow.wait_for_function("[...document.images].some(image => image.naturalWidth > 300)")
    shoot(mlflow, "mlflow-picture")


def test_mlflow_shows_the_model_with_its_aliases(mlflow: Any, night: Any, servers: Servers) -> None:
    mlflow.goto(f"{servers.mlflow}/#/models/night")
    mlflow.get_by_text(re.compile("champion")).first.wait_for()
    mlflow.get_by_text("Version 1", exact=True).locator("visible=true").first.wait_for()
    shoot(mlflow, "mlflow-model")


def test_prefect_shows_the_tasks_of_a_run(prefect: Any, night: Any, servers: Servers) -> None:
    prefect.goto(f"{servers.prefect}/runs/flow-run/{night.id}")
    prefect.get_by_text("Task Runs", exact=True).first.click()
    for name in ("train north", "fuse kind", "register"):
        prefect.get_by_text(re.compile(f"^{name}")).first.wait_for()
    shoot(prefect, "prefect-run")


def test_prefect_shows_the_recipe_as_a_form(prefect: Any, night: Any, servers: Servers) -> None:
    prefect.goto(f"{servers.prefect}/deployments/deployment/{night.deployment_id}/run")
    prefect.get_by_text("Epochs").first.wait_for()
    values = prefect.locator("input, textarea").evaluate_all("fields => fields.map(field => field.value)")
    assert {"night", "north", "south"} <= set(values)
    shoot(prefect, "prefect-form")
