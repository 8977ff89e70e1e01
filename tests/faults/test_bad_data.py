"""Data that can't be what was meant are refused before anything is trained, by the real command in a process of its own."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from tests.faults.harness import Site, member

NOBODY = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}  # nothing listens there: it must not be asked


def refused(site: Site, *arguments: str) -> str:
    """Run, check that nothing is left of it, and return the sentence."""
    ended = site.train(*arguments, **NOBODY).finish()
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1, ended.err
    assert not (site.home / "mlflow.db").exists()
    assert site.weights() == {}
    return ended.sentence


@pytest.mark.parametrize(
    ("column", "row", "value", "words"),
    [
        ("kind", 7, "w", ["'kind'", "row 7", "'w'"]),
        ("q", 9, None, ["'q'", "row 9"]),
    ],
    ids=["label", "NaN"],
)
def test_bad_labels_nan_inputs_missing_files_wrong_shape(
    site: Site, column: str, row: int, value: object, words: list[str]
) -> None:
    frame = pd.read_csv(site.table)
    frame.loc[row, column] = value
    frame.to_csv(site.table, index=False)
    sentence = refused(site, "--set", "data.missing=refuse", "--set", "targets.kind.classes=[x, y, z]")
    assert [word for word in words if word not in sentence] == []


def test_missing_files(site: Site) -> None:
    site.table.unlink()
    assert str(site.table) in refused(site)


def test_wrong_shape(site: Site) -> None:
    """A row that has a column too many."""
    lines = site.table.read_text().splitlines()
    site.table.write_text("\n".join([*lines[:5], lines[5] + ",1.0", *lines[6:]]))
    sentence = refused(site)
    assert str(site.table) in sentence
    assert re.search(r"\b(row 4|line 6)\b", sentence), sentence


def test_empty_partition(site: Site) -> None:
    sentence = refused(site, "--set", "partition=disjoint", "--set", "members.0.count=120")
    assert [word for word in ("partition", "member 'a-", "rows") if word not in sentence] == []


def test_one_class_partition(site: Site) -> None:
    frame = pd.read_csv(site.table)
    frame["kind"] = np.where(np.arange(len(frame)) % 12 == 0, "x", "y")
    frame.to_csv(site.table, index=False)
    sentence = refused(site, "--set", "partition=disjoint", "--set", "members.0.count=12")
    assert [word for word in ("partition", "member 'a-", "one class of 'kind'") if word not in sentence] == []


def test_fewer_rows_than_a_batch(site: Site) -> None:
    """All rows are one batch then: an epoch without a step would train nothing and say so nowhere."""
    site.write([member("a", batch_size=1000), member("b")])
    assert site.train().finish().summary["trained"] == 2
    losses = [[epoch["loss"] for epoch in curve] for curve in site.curves().values()]
    assert all(len(set(its)) == len(its) for its in losses)


def test_damaged_data_file(site: Site) -> None:
    """The recipe says by which fingerprint its data are known; one digit of one number is another one now."""
    checked = site.start("check", site.recipe, "--json", **NOBODY).finish().summary
    data = bytearray(site.table.read_bytes())
    place = data.rindex(b".") + 1
    data[place] ^= 1
    site.table.write_bytes(data)
    sentence = refused(site, "--set", f"data.fingerprint={checked['fingerprint']}")
    assert str(site.table) in sentence
    assert "fingerprint" in sentence
