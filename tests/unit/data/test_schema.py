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


def test_a_target_is_as_wide_as_its_classes() -> None:
    assert TargetSchema(kind="classification", classes=["a", "b", "c"]).width == 3
    assert TargetSchema(kind="regression").width == 1
