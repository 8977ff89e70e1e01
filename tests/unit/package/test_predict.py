"""Raw rows in, a table of answers out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.models.utils import _enforce_schema
from mlflow.types import DataType

from fuseline.data.schema import TargetSchema
from fuseline.errors import DataError
from fuseline.package.ensemble import Ensemble
from fuseline.package.predict import predict
from fuseline.tracking.registry import TYPES, signature

COLUMNS = [
    "kind", "kind_proba_up", "kind_proba_down", "kind_proba_still", "kind_uncertainty", "kind_epistemic",
    "grade", "grade_proba_1", "grade_proba_2", "grade_proba_3", "grade_proba_5", "grade_uncertainty", "grade_epistemic",
    "signs_u", "signs_v", "signs_proba_u", "signs_proba_v", "signs_uncertainty", "signs_epistemic",
    "size", "size_uncertainty", "size_epistemic",
    "range", "range_q0.05", "range_q0.5", "range_q0.95", "range_uncertainty", "range_epistemic",
]  # fmt: skip
DECIDED = ["kind", "grade", "signs_u", "signs_v"]
NUMBERS = [name for name in COLUMNS if name not in DECIDED]


@pytest.fixture(scope="module")
def ensemble(ensemble_of: Callable[..., Any]) -> Ensemble:
    return ensemble_of().ensemble


def test_a_table_with_the_columns_that_are_documented(ensemble: Ensemble, raw: pd.DataFrame) -> None:
    table = predict(ensemble, raw, 16)
    assert list(table.columns) == COLUMNS == ensemble.schema.answers
    assert all(table[name].dtype == np.float64 for name in NUMBERS)
    assert np.isfinite(table[NUMBERS].to_numpy()).all()


def test_every_column_is_of_the_type_that_the_schema_and_the_signature_name(ensemble: Ensemble, raw: pd.DataFrame) -> None:
    table = predict(ensemble, raw, 16)
    declared = {column: kind for name, task in ensemble.schema.targets.items() for column, kind in task.answers(name)}
    assert list(declared) == list(table.columns)
    for column, kind in declared.items():
        assert {type(value) for value in table[column].tolist()} == {kind}, column
    signed = {column.name: column.type for column in signature(ensemble.schema).outputs}
    assert signed == {column: TYPES[kind] for column, kind in declared.items()}
    numpy_types = {name: kind.to_numpy() for name, kind in signed.items()}
    assert all(table[name].dtype == kind for name, kind in numpy_types.items() if signed[name] is not DataType.string)


def test_the_answers_pass_mlflows_own_check_of_the_signature(ensemble: Ensemble, raw: pd.DataFrame) -> None:
    table = predict(ensemble, raw, 16)
    checked = _enforce_schema(table, signature(ensemble.schema).outputs)
    pd.testing.assert_frame_equal(checked, table, check_dtype=False)


def test_labels_are_said_where_they_are_more_probable_than_not(ensemble: Ensemble, raw: pd.DataFrame) -> None:
    table = predict(ensemble, raw, 16)
    for label in ("u", "v"):
        assert table[f"signs_{label}"].tolist() == (table[f"signs_proba_{label}"] > 0.5).tolist()
    assert 0 < table[["signs_u", "signs_v"]].to_numpy().mean() < 1


def test_of_quantiles_the_middle_one_is_the_answer_and_they_ascend(ensemble: Ensemble, raw: pd.DataFrame) -> None:
    table = predict(ensemble, raw, 16)
    assert table["range"].tolist() == table["range_q0.5"].tolist()
    quantiles = table[["range_q0.05", "range_q0.5", "range_q0.95"]].to_numpy()
    assert (np.diff(quantiles, axis=1) > 0).all()
    width = quantiles[:, -1] - quantiles[:, 0]
    np.testing.assert_allclose(table["range_uncertainty"], width + table["range_epistemic"])


def test_the_class_is_the_most_probable_one_and_probabilities_sum_to_one(ensemble: Ensemble, raw: pd.DataFrame) -> None:
    table = predict(ensemble, raw, 16)
    proba = table[[f"kind_proba_{label}" for label in ("up", "down", "still")]]
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert table["kind"].tolist() == [name.removeprefix("kind_proba_") for name in proba.idxmax(axis=1)]


@pytest.mark.parametrize("batch", [1, 7, 50, 1000])
def test_the_batch_makes_no_difference(ensemble: Ensemble, raw: pd.DataFrame, batch: int) -> None:
    whole, parts = predict(ensemble, raw, 25), predict(ensemble, raw, batch)
    assert parts.index.equals(whole.index)
    pd.testing.assert_frame_equal(parts[DECIDED], whole[DECIDED])
    np.testing.assert_allclose(parts[NUMBERS].to_numpy(), whole[NUMBERS].to_numpy(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "index",
    [
        pd.Index(["b", "a", "b"], name="name"),  # the same name twice
        pd.RangeIndex(10, 13),
        pd.DatetimeIndex(["2024-01-02", "2024-01-01", "2023-01-01"]),
        pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["one", "other"]),
    ],
    ids=lambda index: type(index).__name__,
)
def test_the_answers_keep_the_rows_index(ensemble: Ensemble, raw: pd.DataFrame, index: pd.Index[Any]) -> None:
    table = predict(ensemble, raw.head(3).set_axis(index), 2)
    pd.testing.assert_index_equal(table.index, index)


def test_rows_in_another_order_have_the_same_answers(ensemble: Ensemble, raw: pd.DataFrame) -> None:
    back = predict(ensemble, raw[::-1], 16)[::-1]
    pd.testing.assert_frame_equal(back, predict(ensemble, raw, 16), atol=1e-6, rtol=1e-5)


def test_the_rows_given_are_left_as_they_are(ensemble: Ensemble, raw: pd.DataFrame) -> None:
    before = raw.copy()
    predict(ensemble, raw, 16)
    pd.testing.assert_frame_equal(raw, before)


def test_no_rows_have_no_answers_and_the_same_columns(ensemble: Ensemble, raw: pd.DataFrame) -> None:
    table = predict(ensemble, raw.iloc[:0], 16)
    assert list(table.columns) == COLUMNS
    assert len(table) == 0
    assert table.index.equals(raw.index[:0])


def test_no_picture_has_no_answer_and_the_same_columns(ensemble_of: Callable[..., Any]) -> None:
    table = predict(ensemble_of(pictures=True).ensemble, np.empty((0, 1, 4, 4), np.uint8), 16)
    assert list(table.columns) == COLUMNS
    assert len(table) == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda rows: rows.drop(columns="y"), ["'y'", "missing"]),
        (lambda rows: rows.drop(columns="color"), ["'color'", "missing"]),
        (lambda rows: rows.assign(y=["1", "two", *["3"] * 48]), ["'y'", "row 1", "'two'"]),
        (lambda rows: rows.assign(x=[0.0] * 49 + [np.inf]), ["'x'", "row 49", "not finite"]),
        (lambda rows: rows.to_numpy(), ["expected a table", "x, y, color"]),
    ],
    ids=["no number", "no word", "a word for a number", "infinite", "no table"],
)
def test_what_is_wrong_is_named(
    ensemble: Ensemble, raw: pd.DataFrame, refusal: Callable[..., str], change: Callable[..., Any], named: list[str]
) -> None:
    sentence = refusal(DataError, predict, ensemble, change(raw), 16)
    assert all(part in sentence for part in named), sentence


def test_pictures_of_another_shape_are_refused(ensemble_of: Callable[..., Any], refusal: Callable[..., str]) -> None:
    sentence = refusal(DataError, predict, ensemble_of(pictures=True).ensemble, np.zeros((2, 1, 5, 4), np.uint8), 16)
    assert "(2, 1, 5, 4)" in sentence


@pytest.mark.parametrize("labels", [[3, 1, 2], ["no", "yes", "1"]], ids=["numbers", "words"])
def test_classes_are_answered_as_they_stood_in_the_data(
    ensemble_of: Callable[..., Any], raw: pd.DataFrame, labels: list[Any]
) -> None:
    ensemble = ensemble_of().ensemble
    targets = ensemble.schema.targets | {"kind": TargetSchema(kind="classification", classes=labels)}
    ensemble.schema = ensemble.schema.model_copy(update={"targets": targets})
    said = predict(ensemble, raw, 16)["kind"].tolist()
    assert set(said) <= set(labels)
    assert {type(label) for label in said} == {type(labels[0])}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 7, 16, 1000])
def test_threads_make_no_difference(ensemble: Ensemble, raw: pd.DataFrame, batch: int, threads: int) -> None:
    before = torch.get_num_threads()
    found, whole = predict(ensemble, raw, batch, threads), predict(ensemble, raw, 25)
    assert torch.get_num_threads() == before
    pd.testing.assert_frame_equal(found, whole, atol=1e-6, rtol=1e-5)
