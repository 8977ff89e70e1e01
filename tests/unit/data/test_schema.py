"""The schema: raw rows to arrays, the same in training and in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.data.schema import FIRST, MISSING, UNKNOWN, Schema, TargetSchema, as_words, rows_of
from fuseline.errors import DataError

TABLE = Schema(numeric=["a", "b"], categorical={"c": ["blue", "red"], "d": ["1", "2"]}, targets={})
GREY = Schema(image=(1, 2, 3), targets={})
COLOUR = Schema(image=(3, 2, 2), image_dtype="float32", targets={})


def table(**columns: Any) -> pd.DataFrame:
    whole: dict[str, Any] = {"a": [1.0, 2.0], "b": [3.0, 4.0], "c": ["red", "blue"], "d": ["2", "1"]}
    return pd.DataFrame(whole | columns)


def objects(*values: Any) -> pd.Series[Any]:
    return pd.Series(list(values), dtype=object)


def test_a_table_becomes_numbers_and_codes() -> None:
    arrays = TABLE.encode(table())
    assert set(arrays) == {"numeric", "categorical"}
    assert arrays["numeric"].dtype == np.float64
    assert arrays["numeric"].tolist() == [[1, 3], [2, 4]]
    assert arrays["categorical"].tolist() == [[FIRST + 1, FIRST + 1], [FIRST, FIRST]]
    assert rows_of(arrays) == 2


def test_the_order_of_columns_and_extra_columns_do_not_matter() -> None:
    shuffled = table(z=["?", "?"])[["z", "d", "c", "b", "a"]]
    expected = TABLE.encode(table())
    arrays = TABLE.encode(shuffled)
    assert arrays.keys() == expected.keys()
    assert all((arrays[name] == expected[name]).all() for name in expected)


def test_only_what_is_there_is_given() -> None:
    assert set(Schema(numeric=["a"], targets={}).encode(table())) == {"numeric"}
    assert set(Schema(categorical={"c": ["red"]}, targets={}).encode(table())) == {"categorical"}


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_values_are_kept_as_missing(missing: Any) -> None:
    arrays = TABLE.encode(table(a=pd.Series([1.0, missing], dtype=object), c=pd.Series([missing, "red"], dtype=object)))
    assert np.isnan(arrays["numeric"]).tolist() == [[False, False], [True, False]]
    assert arrays["categorical"][:, 0].tolist() == [MISSING, FIRST + 1]


def test_an_unknown_category_has_the_code_of_none() -> None:
    assert TABLE.encode(table(c=["green", "red"]))["categorical"][:, 0].tolist() == [UNKNOWN, FIRST + 1]


def test_a_column_of_nothing_but_missing_values_is_taken() -> None:
    schema = Schema(numeric=["a"], categorical={"c": []}, targets={})
    arrays = schema.encode(pd.DataFrame({"a": [None, None], "c": [None, None]}))
    assert np.isnan(arrays["numeric"]).all()
    assert arrays["categorical"].tolist() == [[MISSING], [MISSING]]


def test_no_rows_are_taken() -> None:
    arrays = TABLE.encode(table().iloc[:0])
    assert {name: array.shape for name, array in arrays.items()} == {"numeric": (0, 2), "categorical": (0, 2)}


@pytest.mark.parametrize(
    "column",
    [[1, 2], [1.0, 2.0], ["1", "2"], np.array([1, 2], np.int8), pd.array([1, 2], "Int64"), pd.Series([1, 2], dtype=object)],
    ids=["int", "float", "str", "int8", "Int64", "object"],
)
def test_a_whole_number_is_one_word_whatever_its_type(column: Any) -> None:
    assert TABLE.encode(table(d=column))["categorical"][:, 1].tolist() == [FIRST, FIRST + 1]


def test_a_missing_value_does_not_change_the_words_of_whole_numbers() -> None:
    words = as_words(pd.Series([1, None, 3]))
    assert words.isna().tolist() == [False, True, False]
    assert [words[0], words[2]] == ["1", "3"]


@given(st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=5))
def test_integers_have_the_words_of_equal_floats(values: list[int]) -> None:
    expected = [str(value) for value in values]
    assert as_words(pd.Series(values)).tolist() == expected
    assert as_words(pd.Series([float(value) for value in values])).tolist() == expected


def test_words_of_other_values() -> None:
    assert as_words(pd.Series([True, False])).tolist() == ["True", "False"]
    assert as_words(pd.Series([0.5, float("inf")])).tolist() == ["0.5", "inf"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": [1.0, np.inf]}, "column 'a', row 1: inf"),
        ({"b": [-np.inf, 1.0]}, "column 'b', row 0: -inf"),
        ({"a": [1.0, "many"]}, "column 'a', row 1: 'many'"),
    ],
)
def test_what_is_no_finite_number_is_named_by_column_and_row(
    refusal: Callable[..., str], columns: dict[str, Any], words: str
) -> None:
    sentence = refusal(DataError, TABLE.encode, table(**columns), "file.csv")
    assert sentence.startswith("file.csv: ")
    assert words in sentence


def test_the_row_is_counted_by_position(refusal: Callable[..., str]) -> None:
    rows = table(a=[1.0, np.inf]).set_axis([10, 20])
    assert "row 1:" in refusal(DataError, TABLE.encode, rows)


def test_numbers_written_as_words_are_taken() -> None:
    assert TABLE.encode(table(a=["1.5", "-2"]))["numeric"][:, 0].tolist() == [1.5, -2.0]


@pytest.mark.parametrize("name", TABLE.columns)
def test_a_missing_column_is_named(refusal: Callable[..., str], name: str) -> None:
    sentence = refusal(DataError, TABLE.encode, table().drop(columns=name), "file.csv")
    assert sentence == f"file.csv: the input column {name!r} is missing."


def test_an_array_is_no_table(refusal: Callable[..., str]) -> None:
    assert "a, b, c, d" in refusal(DataError, TABLE.encode, np.zeros((2, 4)))


# ------------------------------------------------------------------------------------------------------------- pictures


def test_pictures_keep_their_values_and_take_the_schemas_type() -> None:
    pictures = np.arange(12).reshape(2, 1, 2, 3)
    image = GREY.encode(pictures)["image"]
    assert image.dtype == np.uint8
    assert (image == pictures).all()
    assert COLOUR.encode(np.full((1, 3, 2, 2), 0.25))["image"].dtype == np.float32


def test_grey_pictures_need_no_channel_axis() -> None:
    pictures = np.arange(12).reshape(2, 2, 3)
    assert (GREY.encode(pictures)["image"][:, 0] == pictures).all()


@pytest.mark.parametrize(
    ("schema", "shape"),
    [(GREY, (2, 1, 3, 2)), (GREY, (2, 3)), (GREY, (2, 2, 2, 3)), (GREY, (2, 3, 2)), (COLOUR, (2, 2, 2)), (COLOUR, (2, 2, 2, 3))],
)
def test_pictures_of_another_shape_are_refused(refusal: Callable[..., str], schema: Schema, shape: tuple[int, ...]) -> None:
    sentence = refusal(DataError, schema.encode, np.zeros(shape), "file.npz")
    assert sentence.startswith("file.npz: expected pictures of shape (N, ")
    assert ", ".join(map(str, shape[1:])) in sentence.partition("not ")[2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_picture_with_a_value_that_is_not_finite_is_named(refusal: Callable[..., str], value: float) -> None:
    pictures = np.zeros((4, 3, 2, 2))
    pictures[2, 1, 0, 1] = value
    assert "picture 2" in refusal(DataError, COLOUR.encode, pictures)


@pytest.mark.parametrize(
    ("schema", "value"), [(GREY, 300), (GREY, -1), (GREY, 0.5), (COLOUR, 1e300)], ids=["above", "below", "between", "huge"]
)
def test_a_picture_is_refused_rather_than_changed(refusal: Callable[..., str], schema: Schema, value: float) -> None:
    assert schema.image is not None
    pictures = np.zeros((4, *schema.image), np.float64)
    pictures[1, 0, 0, 0] = value
    assert "picture 1" in refusal(DataError, schema.encode, pictures)


def test_pictures_of_words_are_refused(refusal: Callable[..., str]) -> None:
    refusal(DataError, GREY.encode, np.full((1, 1, 2, 3), "a"))


# --------------------------------------------------------------------------------------------------------------- targets

COLOURS = TargetSchema(kind="classification", classes=["red", "blue"])
STEPS = TargetSchema(kind="ordinal", classes=[1, 2, 3])
MARKS = TargetSchema(kind="multilabel", classes=["p", "q"])
VALUE = TargetSchema(kind="regression")
LEVELS = TargetSchema(kind="quantile", levels=[0.05, 0.4, 0.975])


@pytest.mark.parametrize(
    ("task", "width", "exclusive"),
    [(COLOURS, 2, True), (STEPS, 3, True), (MARKS, 2, False), (VALUE, 1, False), (LEVELS, 3, False)],
    ids=lambda value: value.kind if isinstance(value, TargetSchema) else None,
)
def test_a_target_is_as_wide_as_what_it_says(task: TargetSchema, width: int, exclusive: bool) -> None:
    assert task.width == width
    assert task.exclusive == exclusive


@pytest.mark.parametrize(
    ("task", "answers"),
    [
        (COLOURS, {"y": str, "y_proba_red": float, "y_proba_blue": float}),
        (STEPS, {"y": int, "y_proba_1": float, "y_proba_2": float, "y_proba_3": float}),
        (
            TargetSchema(kind="classification", classes=[False, True]),
            {"y": bool, "y_proba_False": float, "y_proba_True": float},
        ),
        (MARKS, {"y_p": bool, "y_q": bool, "y_proba_p": float, "y_proba_q": float}),
        (VALUE, {"y": float}),
        (LEVELS, {"y": float, "y_q0.05": float, "y_q0.4": float, "y_q0.975": float}),
    ],
    ids=["words", "numbers", "truths", "multilabel", "regression", "quantile"],
)
def test_a_target_is_answered_by_named_columns(task: TargetSchema, answers: dict[str, type]) -> None:
    expected = answers | {"y_uncertainty": float, "y_epistemic": float}
    assert task.answers("y") == list(expected.items())


def test_levels_that_differ_late_have_columns_of_their_own() -> None:
    levels = [0.05, 0.1234567, 0.12345678, 1 - 1e-9]
    columns = [name for name, _ in TargetSchema(kind="quantile", levels=levels).answers("y")]
    assert columns[1:5] == ["y_q0.05", "y_q0.1234567", "y_q0.12345678", "y_q0.999999999"]
    assert len(set(columns)) == len(columns)


@given(st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), min_size=2, max_size=5, unique=True))
def test_a_level_is_found_again_in_its_columns_name(levels: list[float]) -> None:
    columns = [name for name, kind in TargetSchema(kind="quantile", levels=levels).answers("y") if name.startswith("y_q")]
    assert [float(name.removeprefix("y_q")) for name in columns] == levels


def test_columns_of_one_name_are_both_there() -> None:
    """A label that reads like what is added to a target's name: whoever looks for such columns sees the name twice."""
    names = [name for name, _ in TargetSchema(kind="multilabel", classes=["p", "proba_p"]).answers("y")]
    assert names == ["y_p", "y_proba_p", "y_proba_p", "y_proba_proba_p", "y_uncertainty", "y_epistemic"]


def test_the_answers_of_all_targets_stand_in_their_order() -> None:
    schema = Schema(numeric=["a"], targets={"v": VALUE, "m": MARKS})
    assert schema.answers == [name for name, _ in [*VALUE.answers("v"), *MARKS.answers("m")]]
    assert schema.answers[:4] == ["v", "v_uncertainty", "v_epistemic", "m_p"]


def test_the_middle_level_is_the_one_nearest_to_the_median() -> None:
    assert LEVELS.middle == 1
    assert TargetSchema(kind="quantile", levels=[0.1, 0.5, 0.9]).middle == 1
    assert TargetSchema(kind="quantile", levels=[0.6, 0.9]).middle == 0
    assert TargetSchema(kind="quantile", levels=[0.25, 0.75]).middle == 0


def test_rows_with_a_target_are_told_from_those_without() -> None:
    for task in (COLOURS, STEPS):
        assert task.known(np.array([0, -1, 1])).tolist() == [True, False, True]
    for task in (VALUE, LEVELS):
        assert task.known(np.array([0.0, np.nan, -3.0])).tolist() == [True, False, True]
    marks = np.array([[0, 1], [np.nan, 1], [np.nan, np.nan], [0, np.nan]], np.float32)
    assert MARKS.known(marks).tolist() == [True, True, False, True]


@pytest.mark.parametrize(("task", "shape"), [(COLOURS, (0,)), (VALUE, (0,)), (MARKS, (0, 2))])
def test_of_no_rows_none_is_known(task: TargetSchema, shape: tuple[int, ...]) -> None:
    known = task.known(np.empty(shape))
    assert known.shape == (0,)
    assert known.dtype == np.bool_


@given(st.lists(st.sampled_from([True, False, 0, 1, 7, "0", "1", "True", "no"]), min_size=2, max_size=5))
def test_classes_keep_their_types_when_a_schema_is_written_and_read(classes: list[Any]) -> None:
    schema = Schema(targets={"y": TargetSchema(kind="classification", classes=classes), "q": LEVELS})
    again = Schema.model_validate_json(schema.model_dump_json())
    assert again == schema
    assert [type(label) for label in again.targets["y"].classes] == [type(label) for label in classes]


# ----------------------------------------------------------------------------------------------------------------- back


def test_a_table_is_found_again_in_its_arrays() -> None:
    rows = table(a=[1.5, np.nan], c=objects("red", None), d=["2", "1"])
    back = TABLE.decode(TABLE.encode(rows))
    assert isinstance(back, pd.DataFrame)
    assert list(back.columns) == TABLE.columns
    assert back["c"].isna().tolist() == [False, True]
    assert back["c"][0] == "red"
    for name, array in TABLE.encode(back).items():
        np.testing.assert_array_equal(array, TABLE.encode(rows)[name])


def test_pictures_are_found_again_as_they_are() -> None:
    pictures = np.arange(12, dtype=np.uint8).reshape(2, 1, 2, 3)
    assert (np.asarray(GREY.decode(GREY.encode(pictures))) == pictures).all()


def test_pictures_that_may_not_be_written_to_are_copied() -> None:
    """torch wants to own what it is given."""
    locked = np.zeros((2, 1, 2, 3), np.uint8)
    locked.flags.writeable = False
    assert GREY.encode(locked)["image"].flags.writeable
    free = np.zeros((2, 1, 2, 3), np.uint8)
    assert GREY.encode(free)["image"] is free


# ---------------------------------------------------------------------------------------------- columns read all at once


@pytest.mark.parametrize("kind", ["float64", "float32", "int8", "uint64", "bool"])
def test_plain_numbers_are_read_alike_whatever_stands_beside_them(kind: str) -> None:
    """Beside a column of objects each is read by itself, and otherwise all at once."""
    values = np.array([0, 1, 1, 0]).astype(kind)
    others = [pd.Series([2, 3, 4, 5]), pd.Series(["2", "3", "4", "5"]), pd.Series([2, 3, 4, 5], dtype="Int64")]
    schema = Schema(numeric=["a", "b"], targets={})
    for other in others:
        found = schema.encode(pd.DataFrame({"b": other, "?": 0, "a": values}))["numeric"]
        assert found.dtype == np.float64
        assert found.flags.c_contiguous
        assert found.flags.writeable
        assert found.tolist() == [[0, 2], [1, 3], [1, 4], [0, 5]]


def test_what_is_encoded_is_no_part_of_what_was_given() -> None:
    schema = Schema(numeric=["a"], targets={})
    rows = pd.DataFrame({"a": [1.0, 2.0]})
    schema.encode(rows)["numeric"][0] = 9
    assert rows["a"].tolist() == [1, 2]


def test_a_rows_number_is_counted_from_the_first(refusal: Callable[..., str]) -> None:
    for values in ([1.0, np.inf], [1.0, "many"]):
        assert "column 'a', row 101: " in refusal(DataError, TABLE.encode, table(a=values), "file.csv", 100)


def test_a_column_that_is_there_twice_is_named(refusal: Callable[..., str]) -> None:
    rows = table()
    twice = pd.concat([rows, rows[["b"]]], axis=1)
    assert "'b' is there twice" in refusal(DataError, TABLE.encode, twice)
    other = pd.concat([rows, rows[["b"]].set_axis(["?"], axis=1), rows[["b"]].set_axis(["?"], axis=1)], axis=1)
    np.testing.assert_array_equal(TABLE.encode(other)["numeric"], TABLE.encode(rows)["numeric"])


MIXED = st.one_of(
    st.lists(st.sampled_from([1, True, 1.0, "1", "True", None, 0, False, 2.5, float("nan"), -0.0]), min_size=1, max_size=12),
    st.lists(st.sampled_from(["1", "a", None, "1.0", "b"]), min_size=1, max_size=12),
)


@given(MIXED, st.sampled_from(["object", "string", "category"]))
def test_values_looked_at_once_have_the_codes_of_their_own_words(values: list[Any], kind: str) -> None:
    column = pd.Series(values, dtype=object)
    if kind != "object":
        column = column.map(str, na_action="ignore").astype(kind)  # type: ignore[call-overload]
    vocabulary = ["1", "True", "a", "0", "2.5", "1.0"]
    found = Schema(categorical={"c": vocabulary}, targets={}).encode(pd.DataFrame({"c": column}))["categorical"][:, 0]
    words = [None if pd.isna(value) else word for value, word in zip(column, as_words(column), strict=True)]
    expected = [MISSING if w is None else FIRST + vocabulary.index(w) if w in vocabulary else UNKNOWN for w in words]
    assert found.tolist() == expected
