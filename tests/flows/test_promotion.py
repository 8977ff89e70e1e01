"""Champions made by the real commands: trained, judged on the test rows by both packages, promoted, rolled back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuseline.store import read_json

BETTER = ("--set", "members.0.epochs=30", "--set", "members.1.epochs=30")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, recipe_file: Callable[..., Path], commands: Callable[..., Any]) -> Any:
    """A home with a weak champion, and a challenger that was trained for longer: the commands' summaries, and how to go on."""
    folder = tmp_path_factory.mktemp("promotion")
    recipe, home = recipe_file(folder), folder / "home"
    weak = ("--set", "members.0.epochs=1", "--set", "members.1.epochs=1", "--set", "registry.floors={wine: {accuracy: 0.0}}")

    def call(*arguments: Any) -> Any:
        return commands(*arguments, home=home)

    first = call("run", recipe, "--json", *weak).summary
    manual = call("run", recipe, "--json", *BETTER, "--set", "registry.promote=manual").summary
    return call, recipe, home, first, manual


def aliases(home: Path, tracked: Callable[..., Any]) -> dict[str, int]:
    return {alias: int(version) for alias, version in tracked(home).get_registered_model("wine").aliases.items()}


def test_a_first_version_becomes_champion_on_its_floors_and_the_summary_says_so(first_run: Any) -> None:
    summary = first_run.summary
    assert summary["promotion"] == "promoted"
    assert summary["promotion_reason"] == "wine/1 passes all 1 checks; it is the first champion."
    assert summary["registered"]["aliases"] == ["challenger", "champion"]


def test_a_run_in_which_everything_is_reused_judges_nothing(
    first_run: Any, second_run: Any, commands: Callable[..., Any]
) -> None:
    done, _, _ = second_run
    assert (done.summary["promotion"], done.summary["promotion_reason"]) == ("kept", "wine/1 is the champion already.")
    events = [its for its in commands("history", "wine", "--json", home=first_run.home).summary if its["challenger"] == 1]
    assert [event["event"] for event in events] == ["promoted"]


def test_a_package_names_the_rows_that_it_was_fitted_on(first_run: Any) -> None:
    file = min((first_run.store / "package").glob("[!.]*/fitted.npy"), key=lambda path: path.stat().st_mtime_ns)
    fitted, [data] = np.load(file, allow_pickle=False), list((first_run.store / "data").glob("[!.]*"))
    rows = np.load(first_run.reports()[0] / "rows-wine.npy")
    content = np.load(data / "content.npy")
    assert fitted.dtype == np.uint64
    assert not np.isin(content[rows], fitted).any()
    assert np.isin(np.delete(content, rows), fitted).all()


def test_by_hand_a_better_version_is_judged_promoted_rolled_back_and_forced(grown: Any, tracked: Callable[..., Any]) -> None:
    call, recipe, home, first, manual = grown
    assert (first["promotion"], first["registered"]["version"]) == ("promoted", 1)
    assert (manual["promotion"], manual["registered"]["aliases"]) == ("manual", ["challenger"])
    assert "fuseline promote wine VERSION" in manual["promotion_reason"]

    outcome = call("promote", "wine", "2", "--json").summary
    assert (outcome["state"], outcome["champion"]) == ("promoted", 2)
    check = next(its for its in outcome["verdict"]["checks"] if its["name"] == "wine: gain of log_loss")
    assert check["passed"]
    assert check["low"] > 0
    report = read_json(max((home / "store" / "report").glob("[!.]*"), key=lambda path: path.stat().st_mtime_ns) / "report.json")
    assert outcome["verdict"]["rows"] == report["rows"]
    assert aliases(home, tracked) == {"champion": 2, "previous": 1, "challenger": 2}

    back = call("rollback", "wine", "--reason", "only to see", "--json").summary
    assert (back["event"], back["from"], back["to"], back["why"]) == ("rolled back", 2, 1, "only to see")

    again = call("run", recipe, "--json", *BETTER).summary
    assert again["promotion"] == "kept"
    assert "was rolled back (only to see)" in again["promotion_reason"]
    assert call("promote", "wine", "2").code == 0

    refused = call("promote", "wine", "1", "--force")
    assert refused.code == 2
    assert "--reason" in refused.err
    forced = call("promote", "wine", "1", "--force", "--reason", "it is small", "--json")
    assert forced.code == 0, forced.err
    assert aliases(home, tracked)["champion"] == 1
    events = call("history", "wine", "--json").summary
    assert (events[0]["forced"], events[0]["to"]) == ("it is small", 1)
    changes = [event for event in reversed(events) if event["number"] is not None]
    assert [event["number"] for event in changes] == list(range(1, len(changes) + 1))
    assert [event["from"] for event in changes] == [None, *(event["to"] for event in changes[:-1])]
    assert "it is small" in call("history", "wine").out


def test_a_worse_version_keeps_its_place_and_the_verdict_is_printed_and_kept(
    first_run: Any, commands: Callable[..., Any], tracked: Callable[..., Any], plain: Callable[[str], str]
) -> None:
    weak = ("--set", "members.0.epochs=1", "--set", "members.1.epochs=1")
    summary = commands("run", first_run.recipe, "--json", *weak, home=first_run.home).summary
    assert summary["promotion"] == "kept"
    version = summary["registered"]["version"]
    assert "champion" not in summary["registered"]["aliases"]
    done = commands("promote", "wine", version, home=first_run.home)
    assert done.code == 1
    assert "NO   wine: gain of log_loss: the gain is -" in plain(done.out)
    again = commands("run", first_run.recipe, "--json", *weak, home=first_run.home).summary
    assert (again["promotion"], again["trained"]) == ("kept", 0)
    assert "not judged again" in again["promotion_reason"]
    run = tracked(first_run.home).get_run(summary["run_id"])
    assert read_json(Path(run.info.artifact_uri) / "summary.json")["promotion"] == "kept"


def test_without_the_plan_in_the_store_one_sentence_says_what_to_do(
    grown: Any, tmp_path: Path, commands: Callable[..., Any]
) -> None:
    _, _, home, _, _ = grown
    elsewhere = tmp_path / "home"
    shutil.copytree(home, elsewhere, ignore=shutil.ignore_patterns("store", "prefect*"))
    shutil.copy(home / "mlflow.db", elsewhere)
    done = commands("promote", "wine", "2", home=elsewhere)
    assert done.code == 2
    assert "run its recipe here again" in done.err
    assert commands("promote", "wine", "99", home=elsewhere).code == 2
    assert commands("history", "nobody", home=elsewhere).code == 2
