"""Judge a version against the champion, and let it take its place; for a team this is the deployment that runs one at a time."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.signals import heeded_still
from fuseline.errors import UserError
from fuseline.terms import Name
from tasks.promotion import promote_version


@flow(name="promote", flow_run_name="{name}/{version}", persist_result=False)
def promote(name: Name, version: int, force: bool = False, reason: str | None = None) -> dict[str, Any]:
    """Judge a registered version, and make it the champion if it passes, or by force, which takes a reason.

    Returns:
        The outcome: ``state`` is ``promoted`` or ``kept``, ``why`` says why in a sentence, ``verdict`` line by line.
    """
    refuse_without_reason(force, reason)
    with heeded_still():
        return promote_version(name, version, reason if force else None).tree


def refuse_without_reason(force: bool, reason: str | None) -> None:
    """
    Raises:
        UserError: the gate is to be set aside without a word.
    """
    if force and not (reason or "").strip():
        raise UserError("--force sets the gate aside, and is recorded with its reason; give one: --reason TEXT.")
