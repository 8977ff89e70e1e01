"""Preprocessing against scikit-learn and numpy; what it learns, it learns from the rows that it is fitted on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from fuseline.data.schema import FIRST, MISSING, UNKNOWN, Schema
from fuseline.models.preprocessing import Preprocessing


def numeric(columns: int) -> Preprocessing:
    return Preprocessing(Schema(numeric=[f"x{j}" for j in range(columns)], targets={}))


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
