"""Target columns of every kind to numbers: what is taken, what is refused, and how the refusal names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fuseline.data.schema import TargetSchema
from fuseline.data.targets import encode
from fuseline.errors import DataError
from fuseline.recipe import Target

KINDS = ["classification", "ordinal", "regression", "quantile"]


def coded(column: Any, **target: Any) -> tuple[TargetSchema, NDArray[Any]]:
    return encode(pd.DataFrame({"y": column}), Target(**target), "file.csv")


def marked(table: dict[str, Any], **target: Any) -> tuple[TargetSchema, NDArray[Any]]:
    return encode(pd.DataFrame(table), Target(kind="multilabel", columns=list(table), **target), "file.csv")


def objects(*values: Any) -> pd.Series[Any]:
    return pd.Series(list(values), dtype=object)


# ---------------------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("kind", ["classification", "ordinal"])
@pytest.mark.parametrize(
    ("column", "classes", "codes"),
    [
        ([3, 1, 2, 1], [1, 2, 3], [2, 0, 1, 0]),
        ([3.0, 1.0, 10.0], [1, 3, 10], [1, 0, 2]),
        ([True, False, True], [False, True], [1, 0, 1]),
        (np.array([7, 5], np.int8), [5, 7], [1, 0]),
        (pd.array([7, 5], "Int64"), [5, 7], [1, 0]),
        (pd.array([True, False], "boolean"), [False, True], [1, 0]),
        (pd.Categorical([9, 8, 9]), [8, 9], [1, 0, 1]),
    ],
    ids=["int", "float", "bool", "int8", "Int64", "boolean", "category"],
)
def test_numbers_and_truths_are_classes_in_their_order(kind: str, column: Any, classes: list[Any], codes: list[int]) -> None:
    schema, values = coded(column, kind=kind)
    assert schema == TargetSchema(kind=kind, classes=classes)
    assert [type(label) for label in schema.classes] == [type(label) for label in classes]
    assert values.dtype == np.int64
    assert values.tolist() == codes


@pytest.mark.parametrize("column", [["b", "a", "c"], objects("b", "a", "c"), pd.Categorical(["b", "a", "c"])])
def test_words_are_classes_in_alphabetical_order(column: Any) -> None:
    schema, values = coded(column, kind="classification")
    assert schema.classes == ["a", "b", "c"]
    assert values.tolist() == [1, 0, 2]


def test_ordinal_words_stand_in_the_order_of_the_recipe() -> None:
    schema, values = coded(["low", "top", "middle"], kind="ordinal", classes=["low", "middle", "top"])
    assert schema == TargetSchema(kind="ordinal", classes=["low", "middle", "top"])
    assert values.tolist() == [0, 2, 1]


def test_ordinal_words_need_an_order(refusal: Callable[..., str]) -> None:
    sentence = refusal(DataError, coded, ["low", "top"], kind="ordinal")
    assert sentence.startswith("file.csv: target column 'y' holds words")
    assert "'classes'" in sentence


def test_the_recipes_classes_may_be_more_than_there_are() -> None:
    schema, values = coded([2, 2, 2], kind="classification", classes=[3, 2, 1])
    assert schema.classes == [3, 2, 1]
    assert values.tolist() == [1, 1, 1]


@given(st.lists(st.integers(-9, 9) | st.none(), min_size=2, max_size=12).filter(lambda ys: len({*ys} - {None}) > 1))
def test_codes_find_their_classes_again(labels: list[int | None]) -> None:
    schema, codes = coded(objects(*labels), kind="classification", missing="mask")
    assert [schema.classes[code] if code >= 0 else None for code in codes] == labels
    assert schema.known(codes).tolist() == [label is not None for label in labels]


@pytest.mark.parametrize(
    ("column", "target", "words"),
    [
        ([1, 1, 1], {}, "has one class only (1)"),
        (["a", "b", "c"], {"classes": ["a", "b"]}, "row 2: 'c' is not among the classes a, b"),
        (["1", "2"], {"classes": [1, 2]}, "labels like '1', which are of another kind than the classes 1, 2"),
        ([1, 2, 2.5], {}, "row 2: 2.5 is a value; is its kind regression?"),
        ([1, float("inf")], {}, "row 1: inf is a value"),
        (objects("a", 1, "b"), {}, "mixes labels of the kinds int and str"),
        (objects("a", True), {}, "mixes labels of the kinds bool and str"),
        (objects(True, 2), {}, "mixes labels of the kinds bool and int"),
        (objects("a", None, 1), {"missing": "mask"}, "mixes labels of the kinds int and str"),
        (objects(True, 1, 0), {}, "mixes labels of the kinds bool and int"),
        (objects(0, 1, False, None), {"missing": "mask"}, "mixes labels of the kinds bool and int"),
        (objects("a", None, "a"), {"missing": "mask"}, "has one class only ('a')"),
    ],
)
@pytest.mark.parametrize("kind", ["classification", "ordinal"])
def test_wrong_classes_are_refused(
    refusal: Callable[..., str], kind: str, column: Any, target: dict[str, Any], words: str
) -> None:
    if kind == "ordinal" and "has one class only ('a')" in words:
        target = {**target, "classes": ["b", "c"]}
        words = "row 0: 'a' is not among the classes b, c"
    sentence = refusal(DataError, coded, column, kind=kind, **target)
    assert sentence.startswith("file.csv: target column 'y'")
    assert words in sentence


# ----------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("kind", ["regression", "quantile"])
@pytest.mark.parametrize(
    "column",
    [[1, 2], [1.0, 2.0], ["1", "2e0"], np.array([1, 2], np.float32), pd.array([1, 2], "Int64"), objects(1, 2.0), [True, 2]],
    ids=["int", "float", "word", "float32", "Int64", "object", "truth"],
)
def test_values_are_numbers_in_float64(kind: str, column: Any) -> None:
    schema, values = coded(column, kind=kind)
    assert schema.kind == kind
    assert values.dtype == np.float64
    assert values.tolist() == [1.0, 2.0]


def test_a_quantile_target_has_levels_and_a_regression_none() -> None:
    assert coded([1, 2], kind="quantile", levels=[0.1, 0.5])[0] == TargetSchema(kind="quantile", levels=[0.1, 0.5])
    assert coded([1, 2], kind="quantile")[0].levels == [0.05, 0.25, 0.5, 0.75, 0.95]
    assert coded([1, 2], kind="regression")[0] == TargetSchema(kind="regression")


@pytest.mark.parametrize("kind", ["regression", "quantile"])
@pytest.mark.parametrize("missing", ["refuse", "mask"])
@pytest.mark.parametrize(("bad", "said"), [(np.inf, "inf"), (-np.inf, "-inf"), ("many", "'many'"), ("", "''"), ("1,5", "'1,5'")])
def test_what_is_no_finite_number_is_named(refusal: Callable[..., str], kind: str, missing: str, bad: Any, said: str) -> None:
    sentence = refusal(DataError, coded, objects(0.5, 1.0, bad), kind=kind, missing=missing)
    assert sentence == f"file.csv: target column 'y', row 2: {said} is not a finite number."


@pytest.mark.parametrize("kind", ["regression", "quantile"])
@pytest.mark.parametrize(
    ("column", "holds"),
    [
        (pd.to_datetime(["2024-01-31", "2024-02-29"]), "datetime64"),
        (pd.to_datetime(["2024-01-31", None]), "datetime64"),
        (pd.to_datetime(["2024-01-31", "2024-02-29"], utc=True), "UTC"),
        (pd.to_timedelta([1, 2], unit="D"), "timedelta64"),
        (np.array([1 + 2j, 3]), "complex128"),
    ],
    ids=["date", "missing date", "date of a zone", "duration", "complex"],
)
def test_dates_durations_and_complex_numbers_are_no_values(
    refusal: Callable[..., str], kind: str, column: Any, holds: str
) -> None:
    sentence = refusal(DataError, coded, column, kind=kind, missing="mask")
    assert sentence.startswith("file.csv: target column 'y' holds ")
    assert holds in sentence


# ----------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "column",
    [
        [0, 1],
        [0.0, 1.0],
        [False, True],
        ["0", "1"],
        pd.array([0, 1], "Int64"),
        pd.array([False, True], "boolean"),
        objects(0, True),
    ],
    ids=["int", "float", "bool", "word", "Int64", "boolean", "object"],
)
def test_labels_are_zeros_and_ones(column: Any) -> None:
    schema, values = marked({"p": column, "q": [1, 1]})
    assert schema == TargetSchema(kind="multilabel", classes=["p", "q"])
    assert values.dtype == np.float32
    assert values.tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("bad", "said"), [(2, "2"), (-1, "-1"), (0.5, "0.5"), ("yes", "'yes'"), (np.inf, "inf"), ("", "''")], ids=str
)
@pytest.mark.parametrize("missing", ["refuse", "mask"])
def test_a_label_that_is_neither_is_named_by_column_and_row(
    refusal: Callable[..., str], bad: Any, said: str, missing: str
) -> None:
    sentence = refusal(DataError, marked, {"p": [0, 1, 1], "q": objects(1, bad, 0)}, missing=missing)
    assert sentence == f"file.csv: target column 'q', row 1: {said} is neither 0 nor 1."


def test_the_order_of_labels_is_that_of_the_recipe() -> None:
    frame = pd.DataFrame({"q": [1, 0], "p": [0, 0]})
    schema, values = encode(frame[["p", "q"]], Target(kind="multilabel", columns=["p", "q"]), "f")
    assert schema.classes == ["p", "q"]
    assert values.tolist() == [[0, 1], [0, 0]]


# ---------------------------------------------------------------------------------------------------------------- missing


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT], ids=["None", "nan", "NA", "NaT"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_value_is_refused_or_masked(refusal: Callable[..., str], kind: str, missing: Any) -> None:
    column = objects(1, 2, missing, 1, missing)
    sentence = refusal(DataError, coded, column, kind=kind)
    assert sentence.startswith("file.csv: target column 'y', row 2: the value is missing; ")
    assert "'missing: mask'" in sentence
    schema, values = coded(column, kind=kind, missing="mask")
    assert schema.known(values).tolist() == [True, True, False, True, False]
    expected = [0, 1, -1, 0, -1] if schema.exclusive else [1, 2, np.nan, 1, np.nan]
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("column", [pd.array([1, None, 3], "Int64"), pd.array([1.0, None, 3.0], "Float64"), [1, None, 3]])
@pytest.mark.parametrize("kind", KINDS)
def test_missing_values_of_any_type_are_masked(kind: str, column: Any) -> None:
    schema, values = coded(column, kind=kind, missing="mask")
    assert schema.known(values).tolist() == [True, False, True]
    assert not schema.exclusive or schema.classes == [1, 3]


def test_a_missing_label_is_refused_or_masked(refusal: Callable[..., str]) -> None:
    table = {"p": objects(0, 1, None, None), "q": objects(1, None, 0, None)}
    sentence = refusal(DataError, marked, table)
    assert sentence.startswith("file.csv: target column 'p', row 2: the value is missing; ")
    schema, values = marked(table, missing="mask")
    np.testing.assert_array_equal(values, np.array([[0, 1], [1, np.nan], [np.nan, 0], [np.nan, np.nan]], np.float32))
    assert schema.known(values).tolist() == [True, True, True, False]


@pytest.mark.parametrize("kind", [*KINDS, "multilabel"])
def test_a_target_without_any_value_is_refused(refusal: Callable[..., str], kind: str) -> None:
    nothing = objects(None, np.nan)
    encoded = (marked, {"p": nothing, "q": nothing}) if kind == "multilabel" else (coded, nothing)
    sentence = refusal(DataError, *encoded, missing="mask", **({} if kind == "multilabel" else {"kind": kind}))
    assert "has no value at all" in sentence


def test_a_label_without_any_value_is_refused(refusal: Callable[..., str]) -> None:
    sentence = refusal(DataError, marked, {"p": [0, 1], "q": objects(None, np.nan), "r": [1, 1]}, missing="mask")
    assert sentence == "file.csv: target column 'q' has no value at all; nothing can be learnt."


@pytest.mark.parametrize("kind", [*KINDS, "multilabel"])
@pytest.mark.parametrize("missing", ["refuse", "mask"])
def test_a_target_of_no_rows_is_refused(refusal: Callable[..., str], kind: str, missing: str) -> None:
    none = pd.Series([], dtype=object)
    if kind == "multilabel":
        sentence = refusal(DataError, marked, {"p": none, "q": none}, missing=missing)
    else:
        sentence = refusal(DataError, coded, none, kind=kind, missing=missing)
    assert "has no value at all" in sentence


def test_the_row_is_counted_by_position(refusal: Callable[..., str]) -> None:
    frame = pd.DataFrame({"y": objects(1.0, "many")}).set_axis([10, 20])
    assert "row 1:" in refusal(DataError, encode, frame, Target(kind="regression"), "file.csv")


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_are_left_as_they_are(kind: str) -> None:
    frame = pd.DataFrame({"y": objects(1, None, 2.0)})
    before = frame.copy(deep=True)
    encode(frame, Target(kind=kind, missing="mask"), "f")
    pd.testing.assert_frame_equal(frame, before)
