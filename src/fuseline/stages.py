"""The stages that compute, each from the folders of those before it: what the flow's tasks call in processes of their own.

All arguments and results are small and can be pickled: names, keys, folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fuseline.bank import Bank, BankedMember, build_bank
from fuseline.errors import DataError
from fuseline.evaluation.report import evaluate
from fuseline.footprint import require_room
from fuseline.fusion.fuse import FusedTarget, fuse_target
from fuseline.package.assess import assess as assessed
from fuseline.package.batch import predict_file
from fuseline.package.build import build_package
from fuseline.package.files import load_description
from fuseline.package.new_rows import new_rows
from fuseline.package.predicted import Predicted
from fuseline.package.readers import identity
from fuseline.plan import Plan, lent, make_plan
from fuseline.planned import PlanMade
from fuseline.recipe import Recipe
from fuseline.report.candidates import leaderboards
from fuseline.report.candidates_plot import candidates
from fuseline.report.drift_plot import draw_assessment
from fuseline.report.plots import draw_all, draw_partition
from fuseline.report.summary import below_floor, finite
from fuseline.store import Store, code_version, content_key, read_json, sha256_of, write_json
from fuseline.training.replica import curve

Made = tuple[Path, bool]
"""A stage's folder in the store, and whether it was there already."""


def plan(recipe: Recipe) -> PlanMade:
    """See :func:`fuseline.plan.make_plan`."""
    made, folder = make_plan(recipe, Store())
    require_room(made, Store())
    rules = {target: made.fuse_spec(target).rules for target in recipe.targets}
    devices, slots = lent(recipe)
    return PlanMade(made.key, folder, tuple(made.members), tuple(recipe.targets), made.after, rules, tuple(devices), slots)


def bank(plan: Path, members: Sequence[tuple[str, Sequence[str], Sequence[Path]]]) -> Made:
    """The bank of members, each with its replicas' keys and folders; see :func:`fuseline.bank.build_bank`."""
    its = Plan.open(plan)
    banked = [
        BankedMember(name, list(keys), list(folders), [j.share for j in its.members[name]]) for name, keys, folders in members
    ]
    made, reused = build_bank(Store(), its.dataset, its.split, banked)
    return made.folder, reused


def fuse(plan: Path, bank: Path, target: str) -> Made:
    """A target's fitted candidates; see :func:`fuseline.fusion.fuse.fuse_target`."""
    its, store = Plan.open(plan), Store()
    fused, reused = fuse_target(store, Bank.open(bank), its.dataset, its.split, its.fuse_spec(target), its.units)
    return store.path("fusion", fused.key), reused


def judge(plan: Path, bank: Path, fused: Sequence[Path]) -> Made:
    """The report; see :func:`fuseline.evaluation.report.evaluate`."""
    its = Plan.open(plan)
    settings = its.recipe.evaluation
    _, folder, reused = evaluate(
        Store(),
        Bank.open(bank),
        its.dataset,
        its.split,
        its.units,
        [FusedTarget.open(part) for part in fused],
        {target: its.metric_names(target) for target in its.recipe.targets},
        settings.resamples,
        settings.level,
        its.recipe.seed,
    )
    return folder, reused


def package(plan: Path, bank: Path, fused: Sequence[Path]) -> Made:
    """The package; see :func:`fuseline.package.build.build_package`."""
    return build_package(Store(), Plan.open(plan), Bank.open(bank), [FusedTarget.open(part) for part in fused])


def assess(package: Path, manifest: str, recipe: Recipe, data: Path, then: Mapping[str, Mapping[str, Any]]) -> Made:
    """The report of a packaged ensemble on new rows, with its pictures; see :func:`fuseline.package.assess.assess`.

    Args:
        manifest: the sha256 of the package's manifest.
    """
    if not data.exists():
        raise DataError(f"{data}: there is no such file or folder.")
    key = content_key(
        manifest=manifest,
        data=[(name, sha256_of(Path(name))) for name, *_ in identity(data)],
        recipe=[recipe.evaluation, recipe.targets, recipe.seed, recipe.data],
        then=then,
        code=code_version("."),
    )

    def build(folder: Path) -> None:
        schema = load_description(package).schema_
        report = finite(assessed(package, recipe, new_rows(data, schema, recipe), str(data), then, folder))
        write_json(folder / "report.json", report)
        draw_assessment(report, folder)

    return Store().make("assessment", key, build)


def compare(ran: Sequence[tuple[str, Path, Path]]) -> Made:
    """The leaderboards of a sweep, with their pictures; see :func:`fuseline.report.candidates.leaderboards`."""
    key = content_key(ran=[(label, plan.name, report.name) for label, plan, report in ran], code=code_version("."))

    def build(folder: Path) -> None:
        boards = finite(leaderboards(ran, folder))
        write_json(folder / "leaderboards.json", boards)
        for number, board in enumerate(boards, 1):
            for target in board["rows"]:
                name = target if len(boards) == 1 else f"{target}-{number}"
                candidates(target, board).savefig(folder / f"leaderboard-{name}.png", dpi=110)

    return Store().make("leaderboard", key, build)


def predict(package: Path, source: Path, target: Path, rejects: Path, id_: str | None, resize: bool) -> Predicted:
    """See :func:`fuseline.package.batch.predict_file`."""
    return predict_file(package, source, target, rejects, id_=id_, resize=resize)


def unmet(report: Path, floors: Mapping[str, Mapping[str, float]]) -> list[str]:
    """See :func:`fuseline.report.summary.below_floor`."""
    return below_floor(finite(read_json(report / "report.json")), floors)


def draw_report(report: Path, members: Mapping[str, Sequence[Path]], folder: Path) -> None:
    """The pictures of a report and of its members' learning curves, into a folder."""
    draw_all(read_json(report / "report.json"), {m: [curve(place) for place in its] for m, its in members.items()}, folder)


def draw_shares(plan: Path, folder: Path) -> None:
    """The pictures of who sees what, into a folder."""
    its = Plan.open(plan)
    shares = {name: [job.share for job in jobs] for name, jobs in its.members.items()}
    draw_partition(read_json(plan / "statistics.json"), shares, its.dataset.schema, folder)
