"""The local database: made whole or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from fuseline.tracking.client import make_database, missing_database
from fuseline.tracking.settings import load_settings


def test_a_database_that_a_killed_process_has_begun_is_made_anew(home: Path) -> None:
    home.mkdir()
    begun = home / ".mlflow.db.unfinished"
    with closing(sqlite3.connect(begun)) as database:
        database.execute("create table experiments (half integer)")
        database.commit()
    settings = load_settings()
    assert missing_database(settings) == home / "mlflow.db"
    make_database(settings)
    assert not begun.exists()
    assert missing_database(settings) is None
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        assert database.execute("select name from experiments").fetchall() == [("Default",)]
        assert database.execute("select count(*) from alembic_version").fetchone() == (1,)


def test_one_that_is_there_is_left_alone(home: Path) -> None:
    home.mkdir()
    (home / "mlflow.db").write_bytes(b"something")
    make_database(load_settings())
    assert (home / "mlflow.db").read_bytes() == b"something"
