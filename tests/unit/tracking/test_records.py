"""What becomes a record, and what of it is left out."""

from __future__ import annotations

import math

from fuseline.data.schema import Schema, TargetSchema
from fuseline.tracking.records import LONGEST, Data, Record, Start, now, record


def test_settings_are_said_flat_and_no_longer_than_mlflow_takes_them() -> None:
    said = record("run", params={"members": [{"name": "a", "epochs": 3}], "long": "x" * 9000, "none": None})
    assert said.params == {"members.0.name": "a", "members.0.epochs": "3", "long": "x" * LONGEST, "none": "None"}


def test_numbers_have_the_time_at_which_they_were_measured() -> None:
    before = now()
    said = record("run", metrics={"score": 0.5}, points=[("loss", 1.5, 1000, 3)])
    assert said.points[0] == ("loss", 1.5, 1000, 3)
    name, value, at, step = said.points[1]
    assert (name, value, step) == ("score", 0.5, 0)
    assert before <= at == said.at <= now()


def test_what_is_not_finite_is_left_out() -> None:
    numbers = {"good": 1.0, "nan": math.nan, "high": math.inf, "low": -math.inf}
    assert [point[0] for point in record("run", metrics=numbers).points] == ["good"]
    assert record("run", points=[("loss", math.nan, 1, 1)]).points == []


def test_a_record_is_read_as_it_was_said() -> None:
    schema = Schema(numeric=["x"], targets={"kind": TargetSchema(kind="classification", classes=["a", "ü"])})
    said = record(
        "run",
        label="first",
        start=Start(name="name", kind="member", key="key", parent="parent", at=5),
        metrics={"third": 1 / 3, "tiny": 5e-324, "large": 1.7976931348623157e308},
        tags={"words": 'a "b"\n\x00 ü'},
        data=Data(name="wine", digest="d", origin="o", schema_=schema),
        end="FAILED",
    )
    line = said.model_dump_json(exclude_defaults=True)
    assert "\n" not in line
    assert Record.model_validate_json(line) == said
