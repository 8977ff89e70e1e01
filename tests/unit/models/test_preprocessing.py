"""Preprocessing against scikit-learn and numpy; what it learns, it learns from the rows that it is fitted on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import QuantileTransformer, StandardScaler
from torch import Tensor

from fuseline.component import Component
from fuseline.data.schema import FIRST, MISSING, UNKNOWN, Schema
from fuseline.errors import RecipeError
from fuseline.models.preprocessing import NUMBERS, Preprocessing

END = 5.199338  # the normal quantile at 1 − 10⁻⁷


def numeric(columns: int, numbers: str | dict[str, Any] = "standard") -> Preprocessing:
    return Preprocessing(Schema(numeric=[f"x{j}" for j in range(columns)], targets={}), Component.model_validate(numbers))


def table(seed: int, rows: int, columns: int, missing: float) -> Tensor:
    random = np.random.default_rng(seed)
    x = random.normal(random.normal(size=columns) * 5, random.uniform(0.1, 20, columns), (rows, columns))
    x[random.random(x.shape) < missing] = np.nan
    x[0] = 1.0  # no column is all missing
    return torch.tensor(x, dtype=torch.float32)


@given(st.integers(0, 9999), st.integers(2, 40), st.integers(1, 4), st.sampled_from([0.0, 0.3]))
def test_numbers_become_the_z_scores_of_scikit_learn(seed: int, rows: int, columns: int, missing: float) -> None:
    train, test = table(seed, rows, columns, missing), table(seed + 1, 10, columns, missing)
    module = numeric(columns)
    module.fit({"numeric": train})
    scaler = StandardScaler().fit(train.double().numpy())
    for x in (train, test):
        expected = np.nan_to_num(scaler.transform(x.double().numpy()))
        assert module({"numeric": x})["numeric"][:, :columns].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_missing_number_is_marked_only_where_the_training_rows_had_one() -> None:
    nan = float("nan")
    module = numeric(2)
    module.fit({"numeric": torch.tensor([[1.0, 1.0], [nan, 2.0], [3.0, 3.0]])})
    out = module({"numeric": torch.tensor([[nan, nan], [2.0, 2.0]])})["numeric"]
    assert out.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]


def test_constant_and_empty_columns_come_out_as_zero() -> None:
    nan = float("nan")
    module = numeric(3)
    train = torch.tensor([[0.1, 1e15, nan]] * 7)
    module.fit({"numeric": train})
    out = module({"numeric": train})["numeric"]
    assert out[:, :3].tolist() == [[0, 0, 0]] * 7
    assert out[:, 3:].tolist() == [[0, 0, 1]] * 7
    assert module({"numeric": torch.tensor([[1.1, 1e15, 2.0]])})["numeric"][0].tolist() == pytest.approx([1, 0, 2, 0, 0, 0])


@given(
    st.integers(0, 9999),
    st.integers(3, 60),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([2, 7, 1000]),
    st.sampled_from([0, 1, 6]),
)
def test_quantiles_are_those_of_scikit_learn(
    seed: int, rows: int, columns: int, missing: float, quantiles: int, decimals: int
) -> None:
    """With ties (decimals 0) and without, fewer rows than quantiles and more, inside the training rows' range and beyond."""
    train = table(seed, rows, columns, missing).double().round(decimals=decimals)
    train[1] = 2.0  # no column has one value alone
    test = torch.cat([train, table(seed + 1, 20, columns, missing).double(), torch.full((1, columns), 1e9)])
    module = numeric(columns, {"quantile": {"quantiles": quantiles}})
    module.fit({"numeric": train})
    oracle = QuantileTransformer(n_quantiles=min(quantiles, rows), output_distribution="normal", subsample=None).fit(
        train.numpy()
    )
    oracle.quantiles_ = oracle.quantiles_.round(10)  # its own miss a tied value by a rounding error at times, and so a rank
    out = module({"numeric": test})["numeric"]
    assert out[:, :columns].numpy() == pytest.approx(np.nan_to_num(oracle.transform(test.numpy())), abs=1e-5)
    assert out[:, columns:].equal((test.isnan() & train.isnan().any(0)).float())


def test_more_rows_than_quantiles_come_out_normally_distributed() -> None:
    module = numeric(1, "quantile")
    skewed = torch.tensor(np.random.default_rng(0).lognormal(0, 3, (5000, 1)))
    module.fit({"numeric": skewed})
    z = module({"numeric": skewed})["numeric"][:, 0].double()
    levels = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    assert z.quantile(levels).numpy() == pytest.approx(torch.special.ndtri(levels).numpy(), abs=0.01)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), st.lists(st.floats(-2e6, 2e6), min_size=2, max_size=30))
def test_quantiles_keep_the_order_and_stay_within_the_ends(train: list[float], test: list[float]) -> None:
    module = numeric(1, {"quantile": {"quantiles": 10}})
    module.fit({"numeric": torch.tensor(train, dtype=torch.float64)[:, None]})
    z = module({"numeric": torch.tensor(sorted(test), dtype=torch.float64)[:, None]})["numeric"][:, 0]
    assert (z.diff() >= -1e-6).all()
    assert (z.abs() <= END + 1e-5).all()


def test_quantiles_do_not_hang_on_the_unit() -> None:
    """scikit-learn takes all that is nearer than 10⁻⁷ to an end for the end, whatever the column's unit."""
    train = table(0, 50, 1, 0.0).double()
    one, tiny = numeric(1, "quantile"), numeric(1, "quantile")
    one.fit({"numeric": train})
    tiny.fit({"numeric": train * 1e-12})
    expected = one({"numeric": train})["numeric"].numpy()
    assert tiny({"numeric": train * 1e-12})["numeric"].numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_columns_of_one_value_or_none_say_nothing_by_quantiles(rows: int) -> None:
    nan = float("nan")
    module = numeric(2, "quantile")
    module.fit({"numeric": torch.tensor([[0.1, nan]] * rows)})
    out = module({"numeric": torch.tensor([[0.1, nan], [5.0, 5.0], [nan, -5.0]])})["numeric"]
    assert out.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("numbers", NUMBERS)
def test_buffers_have_the_same_shapes_whatever_the_rows(numbers: str) -> None:
    blank = numeric(2, numbers)
    for rows in (1, 3, 1500):
        fitted = numeric(2, numbers)
        fitted.fit({"numeric": table(rows, rows, 2, 0.3)})
        assert {n: b.shape for n, b in fitted.state_dict().items()} == {n: b.shape for n, b in blank.state_dict().items()}
        fresh = numeric(2, numbers)
        fresh.load_state_dict(fitted.state_dict())
        test = {"numeric": table(9, 40, 2, 0.3)}
        assert fresh(test)["numeric"].equal(fitted(test)["numeric"])


def test_the_names_of_what_is_kept() -> None:
    names = ["can_miss", "channel_mean", "channel_scale", "sees_numeric", "sees_categorical", "sees_image"]
    assert list(numeric(1).state_dict()) == ["mean", "scale", *names]
    assert list(numeric(1, "quantile").state_dict()) == ["quantiles", "levels", *names]


@pytest.mark.parametrize(
    ("numbers", "word"),
    [("quantiles", "'quantile'"), ({"quantile": {"quantiles": 1}}, "greater than or equal to 2"), ({"standard": {"a": 1}}, "a:")],
)
def test_a_scaling_that_is_wrong_is_refused(refusal: Callable[..., str], numbers: Any, word: str) -> None:
    sentence = refusal(RecipeError, Preprocessing, Schema(targets={}), Component.model_validate(numbers))
    assert sentence.startswith("numbers")
    assert word in sentence


def test_categories_that_the_training_rows_never_had_are_unknown() -> None:
    module = Preprocessing(Schema(categorical={"c": ["a", "b", "d"], "e": ["x"]}, targets={}))
    module.fit({"categorical": torch.tensor([[FIRST, FIRST], [FIRST + 2, FIRST]])})
    codes = torch.tensor([[UNKNOWN, MISSING], [MISSING, UNKNOWN], [FIRST, FIRST], [FIRST + 1, FIRST], [FIRST + 2, FIRST]])
    expected = [[UNKNOWN, MISSING], [MISSING, UNKNOWN], [FIRST, FIRST], [UNKNOWN, FIRST], [FIRST + 2, FIRST]]
    assert module({"categorical": codes})["categorical"].tolist() == expected


@pytest.mark.parametrize(("shape", "dtype"), [((50, 3, 4, 5), "uint8"), ((50, 1, 1, 1), "float32"), ((5000, 2, 2, 2), "float32")])
def test_pictures_are_standardised_by_channel(shape: tuple[int, ...], dtype: str) -> None:
    pictures = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    module = Preprocessing(Schema(image=shape[1:], image_dtype=dtype, targets={}))
    module.fit({"image": torch.from_numpy(pictures)})
    exact = pictures.astype(np.float64)
    mean, deviation = exact.mean((0, 2, 3)), exact.std((0, 2, 3))
    assert module.channel_mean.flatten().numpy() == pytest.approx(mean, rel=1e-6)
    assert module.channel_scale.flatten().numpy() == pytest.approx(deviation, rel=1e-5)
    out = module({"image": torch.from_numpy(pictures[:7])})["image"]
    assert out.dtype == torch.float32
    assert out.numpy() == pytest.approx((exact[:7] - mean[:, None, None]) / deviation[:, None, None], abs=1e-4)


def test_a_picture_of_one_colour_comes_out_as_zero() -> None:
    module = Preprocessing(Schema(image=(1, 2, 2), targets={}))
    pictures = torch.full((3, 1, 2, 2), 7, dtype=torch.uint8)
    module.fit({"image": pictures})
    assert module({"image": pictures})["image"].tolist() == torch.zeros(3, 1, 2, 2).tolist()


def test_what_is_learnt_survives_saving() -> None:
    schema = Schema(numeric=["a", "b"], categorical={"c": ["x", "y"]}, image=None, targets={})
    batch = {"numeric": table(0, 9, 2, 0.3), "categorical": torch.full((9, 1), FIRST)}
    fitted, fresh = Preprocessing(schema), Preprocessing(schema)
    fitted.fit(batch)
    other = {"numeric": table(1, 5, 2, 0.3), "categorical": torch.tensor([[0], [1], [2], [3], [2]])}
    assert any((fresh(other)[name] != fitted(other)[name]).any() for name in other)
    fresh.load_state_dict(fitted.state_dict())
    assert all((fresh(other)[name] == fitted(other)[name]).all() for name in other)


def test_pictures_statistics_survive_saving() -> None:
    schema = Schema(image=(2, 3, 3), image_dtype="float32", targets={})
    pictures = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    fitted, fresh = Preprocessing(schema), Preprocessing(schema)
    fitted.fit({"image": pictures})
    fresh.load_state_dict(fitted.state_dict())
    assert (fresh({"image": pictures})["image"] == fitted({"image": pictures})["image"]).all()
    assert (fresh({"image": pictures})["image"] != pictures).any()


def test_a_batch_is_left_as_it_is() -> None:
    module = numeric(2)
    x = table(0, 5, 2, 0.3)
    before = x.clone()
    module.fit({"numeric": x})
    module({"numeric": x})
    assert x.nan_to_num(-99).equal(before.nan_to_num(-99))


# ----------------------------------------------------------------------------------------------------------------- views

MIXED = Schema(numeric=["a", "b", "d"], categorical={"c": ["x", "y"], "e": ["x", "y", "z"]}, targets={})
PICTURES = Schema(image=(2, 3, 4), image_dtype="float32", targets={})


def rows(seed: int, count: int) -> dict[str, Tensor]:
    codes = torch.randint(0, FIRST + 2, (count, 2), generator=torch.Generator().manual_seed(seed))
    return {"numeric": table(seed, count, 3, 0.3), "categorical": codes}


def pictures(seed: int, count: int) -> dict[str, Tensor]:
    return {"image": torch.rand(count, 2, 3, 4, generator=torch.Generator().manual_seed(seed)) * 9}


def mask(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


@given(st.integers(0, 9999), st.sampled_from(list(NUMBERS)))
def test_hidden_columns_never_matter_and_seen_ones_come_through(seed: int, numbers: str) -> None:
    view = {"numeric": mask(seed, (3,)), "categorical": mask(seed + 1, (2,))}
    module, whole = Preprocessing(MIXED, Component(name=numbers)), Preprocessing(MIXED, Component(name=numbers))
    module.see(view)
    for one in (module, whole):
        one.fit(rows(seed, 20))
    test, other = rows(seed + 2, 9), rows(seed + 3, 9)
    changed = {name: torch.where(view[name], test[name], other[name]) for name in test}
    out, again, all_seen = module(test), module(changed), whole(test)
    assert all(out[name].equal(again[name]) for name in out)
    twice = view["numeric"].repeat(2)
    assert out["numeric"].equal(torch.where(twice, all_seen["numeric"], 0.0))
    assert out["categorical"].equal(torch.where(view["categorical"], all_seen["categorical"], MISSING))


@given(st.integers(0, 9999))
def test_hidden_pixels_never_matter_and_seen_ones_come_through(seed: int) -> None:
    view = {"image": mask(seed, (2, 3, 4))}
    module, whole = Preprocessing(PICTURES), Preprocessing(PICTURES)
    for one in (module, whole):
        one.fit(pictures(seed, 6))
    module.see(view)
    test, other = pictures(seed + 1, 5)["image"], pictures(seed + 2, 5)["image"]
    out = module({"image": test})["image"]
    assert out.equal(module({"image": torch.where(view["image"], test, other)})["image"])
    assert out.equal(whole({"image": test})["image"] * view["image"])


def test_a_view_survives_saving_and_what_it_does_not_name_is_seen() -> None:
    module, fresh = Preprocessing(MIXED), Preprocessing(MIXED)
    module.see({"numeric": torch.tensor([True, False, True]), "categorical": torch.tensor([False, True])})
    fresh.load_state_dict(module.state_dict())
    test = rows(0, 9)
    assert all(fresh(test)[name].equal(module(test)[name]) for name in test)
    module.see({"categorical": torch.tensor([True, False])})
    assert module.sees_numeric.tolist() == [True] * 3
    assert module.sees_categorical.tolist() == [True, False]
    module.see({})
    assert all(module(test)[name].equal(Preprocessing(MIXED)(test)[name]) for name in test)


@pytest.mark.parametrize(("name", "shape"), [("numeric", (1,)), ("numeric", (6,)), ("image", (1, 1, 1)), ("codes", (2,))])
def test_a_mask_that_fits_no_input_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=name):
        Preprocessing(MIXED).see({name: torch.ones(shape, dtype=torch.bool)})
