"""The split: roles that share no row and no content (invariant 1), stable as the data grow, and each rule's own promise."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fuseline.data.dataset import Dataset
from fuseline.data.split import EXCLUDED, ROLES, SPLITS, Split, split, strata, units
from fuseline.errors import DataError
from fuseline.recipe import Split as Spec

DatasetOf = Callable[..., Dataset]

RULES = {
    "stable": Spec(rule="stable"),
    "stable by group": Spec(rule="stable", column="g"),
    "stratified": Spec(rule="stratified"),
    "group": Spec(rule="group", column="g"),
    "time": Spec(rule="time", column="t"),
    "column": Spec(rule="column", column="role"),
}
LARGE = {"min_size": 150, "max_size": 250}


def shares(spec: Spec) -> dict[str, float]:
    return {role: getattr(spec, role) for role in ROLES}


def roles_of(result: Split, rows: Any = slice(None)) -> list[str]:
    return ["excluded" if role == EXCLUDED else ROLES[role] for role in result.roles[rows]]


@st.composite
def rows(draw: st.DrawFn, min_size: int = 1, max_size: int = 40) -> dict[str, NDArray[Any]]:
    """Rows of which some are copies, with a class, a group, a time and a role each; few of some and many of others."""
    n = draw(st.integers(min_size, max_size))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = np.arange(n)
    copies = random.random(n) < draw(st.sampled_from([0.0, 0.1, 0.5]))
    x[copies] = random.integers(0, n, copies.sum())
    return {
        "x": x,
        "y": x % 2,  # a copy has its original's class
        "g": random.integers(0, draw(st.integers(40, 80)), n).astype(str),
        "t": random.integers(0, draw(st.integers(20, 400)), n).astype(float),
        "role": np.array(ROLES)[random.choice(4, n, p=[0.4, 0.2, 0.2, 0.2])],
    }


def dataset(dataset_of: DatasetOf, rows: dict[str, NDArray[Any]], spec: Spec) -> Dataset:
    column = None if spec.column is None else rows[spec.column]
    return dataset_of(rows["x"][:, None], {"y": rows["y"]}, column, {"y": [0, 1]})


def joined(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([one[name], other[name]]) for name in one}


def parted(data: Dataset, spec: Spec) -> Split:
    """The split; draws that are too small for it are of no interest."""
    try:
        return split(data, spec)
    except DataError:
        assume(False)
        raise


# ------------------------------------------------------------------------------------------------------------ every rule


def test_every_rule_is_tried() -> None:
    assert {spec.rule for spec in RULES.values()} == set(SPLITS)


@pytest.mark.parametrize("name", RULES)
@given(drawn=rows(**LARGE))
def test_roles_share_neither_row_nor_content(dataset_of: DatasetOf, name: str, drawn: dict[str, NDArray[Any]]) -> None:
    data = dataset(dataset_of, drawn, RULES[name])
    result = parted(data, RULES[name])
    ids = {role: set(data.ids[result.rows(role)]) for role in ROLES}
    contents = {role: set(drawn["x"][result.rows(role)]) for role in ROLES}
    for i, one in enumerate(ROLES):
        assert ids[one]
        for other in ROLES[:i]:
            assert not ids[one] & ids[other]
            assert not contents[one] & contents[other]
    assert sum(len(rows) for rows in ids.values()) + len(result.excluded) == len(data)


@pytest.mark.parametrize("name", RULES)
@given(drawn=rows(**LARGE))
def test_copies_stay_in_the_most_protected_of_their_roles(
    dataset_of: DatasetOf, name: str, drawn: dict[str, NDArray[Any]]
) -> None:
    spec = RULES[name]
    data = dataset(dataset_of, drawn, spec)
    result = parted(data, spec)
    wished = SPLITS[spec.rule](data, spec)
    for content in set(drawn["x"]):
        same = drawn["x"] == content
        highest = wished[same].max()
        assert (result.roles[same] == np.where(wished[same] == highest, highest, EXCLUDED)).all()


@pytest.mark.parametrize("name", ["stable", "stratified"])
@given(drawn=rows(**LARGE))
def test_rules_that_go_by_content_exclude_nothing(dataset_of: DatasetOf, name: str, drawn: dict[str, NDArray[Any]]) -> None:
    assert len(parted(dataset(dataset_of, drawn, RULES[name]), RULES[name]).excluded) == 0


@pytest.mark.parametrize("name", RULES)
@given(drawn=rows(**LARGE))
def test_a_split_repeats(dataset_of: DatasetOf, name: str, drawn: dict[str, NDArray[Any]]) -> None:
    data = dataset(dataset_of, drawn, RULES[name])
    assert (parted(data, RULES[name]).roles == split(data, RULES[name]).roles).all()


@pytest.mark.parametrize("name", ["stable", "stable by group", "stratified", "group"])
def test_another_seed_gives_another_split(dataset_of: DatasetOf, name: str) -> None:
    x = np.arange(400)
    drawn = {"x": x, "y": x % 2, "g": (x // 4).astype(str)}
    splits = [split(dataset(dataset_of, drawn, spec), spec) for spec in (RULES[name], RULES[name].model_copy(update={"seed": 1}))]
    assert (splits[0].roles != splits[1].roles).any()


def test_rows_of_several_roles_come_in_the_order_of_the_data() -> None:
    result = Split(np.array([3, 0, EXCLUDED, 1, 0, 2], np.int8))
    assert result.rows("train", "test").tolist() == [0, 1, 4]
    assert result.rows("fusion").tolist() == [3]
    assert result.rows("calibration").tolist() == [5]
    assert result.excluded.tolist() == [2]


# ---------------------------------------------------------------------------------------------------------------- stable


@given(rows(), rows())
def test_no_row_changes_its_role_as_the_data_grow(
    dataset_of: DatasetOf, before: dict[str, NDArray[Any]], added: dict[str, NDArray[Any]]
) -> None:
    spec = RULES["stable"]
    few = SPLITS["stable"](dataset(dataset_of, before, spec), spec)
    more = SPLITS["stable"](dataset(dataset_of, joined(before, added), spec), spec)
    assert (more[: len(few)] == few).all()


@given(rows(**LARGE), rows())
def test_a_whole_split_stays_as_the_data_grow(
    dataset_of: DatasetOf, before: dict[str, NDArray[Any]], added: dict[str, NDArray[Any]]
) -> None:
    spec = RULES["stable"]
    few = parted(dataset(dataset_of, before, spec), spec)
    more = split(dataset(dataset_of, joined(before, added), spec), spec)
    assert (more.roles[: len(few.roles)] == few.roles).all()


@given(rows(**LARGE), rows())
def test_by_group_rows_may_be_left_out_as_the_data_grow_but_never_change_sides(
    dataset_of: DatasetOf, before: dict[str, NDArray[Any]], added: dict[str, NDArray[Any]]
) -> None:
    spec = RULES["stable by group"]
    few = parted(dataset(dataset_of, before, spec), spec).roles
    more = parted(dataset(dataset_of, joined(before, added), spec), spec).roles[: len(few)]
    assert ((more == few) | (more == EXCLUDED)).all()


@given(rows(), st.randoms(use_true_random=False))
def test_a_role_does_not_depend_on_the_order_of_rows(dataset_of: DatasetOf, drawn: dict[str, NDArray[Any]], random: Any) -> None:
    spec = RULES["stable"]
    order = list(range(len(drawn["x"])))
    random.shuffle(order)
    shuffled = {name: column[order] for name, column in drawn.items()}
    one, other = (SPLITS["stable"](dataset(dataset_of, part, spec), spec) for part in (drawn, shuffled))
    assert (one[order] == other).all()


@given(rows())
def test_copies_share_a_role_and_with_a_column_groups_do(dataset_of: DatasetOf, drawn: dict[str, NDArray[Any]]) -> None:
    for name, unit in (("stable", "x"), ("stable by group", "g")):
        roles = SPLITS["stable"](dataset(dataset_of, drawn, RULES[name]), RULES[name])
        for value in set(drawn[unit]):
            assert len(set(roles[drawn[unit] == value])) == 1


@pytest.mark.parametrize("seed", range(3))
def test_stable_shares_are_about_right(dataset_of: DatasetOf, seed: int) -> None:
    spec = Spec(seed=seed)
    n = 20_000
    result = split(dataset_of(np.arange(n)[:, None], {"y": np.arange(n) % 2}), spec)
    for role, share in shares(spec).items():
        deviation = (share * (1 - share) / n) ** 0.5
        assert abs(len(result.rows(role)) / n - share) < 4 * deviation


@given(st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_a_larger_test_share_takes_rows_and_gives_none_back(dataset_of: DatasetOf, one: float, other: float) -> None:
    data = dataset_of(np.arange(300)[:, None], {"y": np.arange(300) % 2})
    small, large = (SPLITS["stable"](data, Spec(test=share)) == ROLES.index("test") for share in sorted([one, other]))
    assert (large | ~small).all()


# ------------------------------------------------------------------------------------------------------------ stratified

SPECS = st.tuples(st.floats(0.02, 0.3), st.floats(0.02, 0.3), st.floats(0.02, 0.3), st.integers(0, 99)).map(
    lambda s: Spec(rule="stratified", fusion=s[0], calibration=s[1], test=s[2], seed=s[3])
)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), SPECS)
def test_stratified_shares_are_exact_overall_and_nearly_so_in_each_stratum(
    dataset_of: DatasetOf, sizes: list[int], spec: Spec
) -> None:
    labels = np.random.default_rng(spec.seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    roles = SPLITS["stratified"](dataset_of(np.arange(len(labels))[:, None], {"y": labels}), spec)
    for role, share in shares(spec).items():
        mine = roles == ROLES.index(role)
        assert abs(mine.sum() - share * len(labels)) <= 1, f"{role} overall"
        for label, size in enumerate(sizes):
            assert abs(mine[labels == label].sum() - share * size) < 2, f"{role} in stratum {label} of {size}"


def test_a_regression_is_stratified_by_its_quantiles(dataset_of: DatasetOf) -> None:
    values = np.random.default_rng(0).lognormal(size=1000)
    data = dataset_of(np.arange(1000)[:, None], {"y": values})
    numbers = strata(data, np.arange(len(data)))
    assert np.bincount(numbers).tolist() == [100] * 10
    assert (np.diff(numbers[np.argsort(values)]) >= 0).all()
    test = split(data, Spec(rule="stratified")).rows("test")
    assert np.bincount(numbers[test]).tolist() == pytest.approx([20] * 10, abs=1)


def test_classes_come_before_values_as_strata(dataset_of: DatasetOf) -> None:
    labels = np.array([0, 1, 1, 2])
    data = dataset_of(np.arange(4)[:, None], {"v": np.arange(4.0), "y": labels})
    assert strata(data, np.arange(len(data))).tolist() == labels.tolist()


# ----------------------------------------------------------------------------------------------------------------- group


@pytest.mark.parametrize("name", ["group", "stable by group"])
@given(drawn=rows(**LARGE))
def test_groups_are_never_parted(dataset_of: DatasetOf, name: str, drawn: dict[str, NDArray[Any]]) -> None:
    result = parted(dataset(dataset_of, drawn, RULES[name]), RULES[name])
    for group in set(drawn["g"]):
        assert len(set(result.roles[drawn["g"] == group]) - {EXCLUDED}) <= 1


def test_group_shares_are_right_within_a_group(dataset_of: DatasetOf) -> None:
    spec = RULES["group"]
    groups = np.repeat(np.arange(200), np.random.default_rng(0).integers(1, 11, 200)).astype(str)
    n = len(groups)
    result = split(dataset_of(np.arange(n)[:, None], {"y": np.arange(n) % 2}, groups), spec)
    for role, share in shares(spec).items():
        assert abs(len(result.rows(role)) - share * n) <= 10


# ------------------------------------------------------------------------------------------------------------------ time


@given(rows(**LARGE))
def test_time_goes_from_train_to_test(dataset_of: DatasetOf, drawn: dict[str, NDArray[Any]]) -> None:
    result = parted(dataset(dataset_of, drawn, RULES["time"]), RULES["time"])
    for earlier, later in itertools.pairwise(ROLES):
        assert drawn["t"][result.rows(earlier)].max() < drawn["t"][result.rows(later)].min()


def test_time_shares_are_right(dataset_of: DatasetOf) -> None:
    spec = RULES["time"]
    when = np.random.default_rng(0).permutation(1000).astype(float)
    result = split(dataset_of(np.arange(1000)[:, None], {"y": np.arange(1000) % 2}, when), spec)
    for role, share in shares(spec).items():
        assert abs(len(result.rows(role)) - share * 1000) <= 1


# ---------------------------------------------------------------------------------------------------------------- column


@given(rows(**LARGE))
def test_the_column_is_followed_where_there_are_no_copies(dataset_of: DatasetOf, drawn: dict[str, NDArray[Any]]) -> None:
    drawn = {**drawn, "x": np.arange(len(drawn["x"]))}
    assert roles_of(parted(dataset(dataset_of, drawn, RULES["column"]), RULES["column"])) == drawn["role"].tolist()


@pytest.mark.parametrize("word", ["validation", "Train", "", "train "])
def test_a_word_that_is_no_role_is_named(dataset_of: DatasetOf, refusal: Callable[..., str], word: str) -> None:
    roles = np.array([*ROLES, word, *ROLES])
    data = dataset_of(np.arange(9)[:, None], {"y": np.arange(9.0)}, roles)
    sentence = refusal(DataError, split, data, RULES["column"])
    assert f"split column 'role', row 4: {word!r} is not a role" in sentence
    assert "train, fusion, calibration, test" in sentence


def test_copies_across_roles_leave_the_less_protected_ones(dataset_of: DatasetOf) -> None:
    x = [[1], [1], [1], [2], [2], [3], [4], [5], [6]]
    roles = np.array(["train", "test", "test", "fusion", "train", "train", "calibration", "fusion", "train"])
    result = split(dataset_of(x, {"y": np.arange(9.0)}, roles), RULES["column"])
    assert roles_of(result) == ["excluded", "test", "test", "fusion", "excluded", "train", "calibration", "fusion", "train"]


SHARES = st.tuples(st.floats(0.0, 0.4), st.floats(0.0, 0.4), st.integers(0, 99)).map(
    lambda s: Spec(rule="column", column="role", fusion=s[0], calibration=s[1], test=0.1, seed=s[2])
)


def divided(drawn: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The rows with a set's own division: the first two thirds are train rows."""
    return {**drawn, "role": np.where(np.arange(len(drawn["x"])) < 2 / 3 * len(drawn["x"]), "train", "test")}


@given(rows(**LARGE), SHARES)
def test_a_sets_own_test_rows_stay_and_the_other_roles_come_from_its_train_rows(
    dataset_of: DatasetOf, drawn: dict[str, NDArray[Any]], spec: Spec
) -> None:
    drawn = divided(drawn)
    wished = SPLITS["column"](dataset(dataset_of, drawn, spec), spec)
    assert ((wished == ROLES.index("test")) == (drawn["role"] == "test")).all()
    for content in set(drawn["x"]):
        assert len(set(wished[(drawn["x"] == content) & (drawn["role"] == "train")])) <= 1


def test_the_shares_are_shares_of_the_train_rows_by_the_hash_of_the_rule_stable(dataset_of: DatasetOf) -> None:
    n = 20_000
    drawn = divided({"x": np.arange(n), "y": np.arange(n) % 2})
    spec = Spec(rule="column", column="role", fusion=0.15, calibration=0.1, test=0.5, seed=3)
    result = split(dataset(dataset_of, drawn, spec), spec)
    train = (drawn["role"] == "train").sum()
    for role, share in {"train": 0.75, "fusion": 0.15, "calibration": 0.1}.items():
        deviation = (share * (1 - share) / train) ** 0.5
        assert abs(len(result.rows(role)) / train - share) < 4 * deviation
    stable = Spec(fusion=0.15, calibration=0.1, test=1e-12, seed=3)
    same = SPLITS["stable"](dataset(dataset_of, drawn, stable), stable)
    assert (result.roles == np.where(drawn["role"] == "test", ROLES.index("test"), same)).all()


@given(rows(**LARGE), rows(), SHARES)
def test_by_a_sets_own_division_no_row_changes_its_role_as_the_data_grow(
    dataset_of: DatasetOf, before: dict[str, NDArray[Any]], added: dict[str, NDArray[Any]], spec: Spec
) -> None:
    before, added = divided(before), divided(added)
    few = SPLITS["column"](dataset(dataset_of, before, spec), spec)
    more = SPLITS["column"](dataset(dataset_of, joined(before, added), spec), spec)
    assert (more[: len(few)] == few).all()


def test_copies_of_official_test_rows_leave_the_train_rows(dataset_of: DatasetOf) -> None:
    x = np.concatenate([np.arange(300), np.arange(250, 400)])
    drawn = {"x": x, "y": np.arange(len(x)) % 2, "role": np.repeat(["train", "test"], [300, 150])}
    spec = Spec(rule="column", column="role")
    result = split(dataset(dataset_of, drawn, spec), spec)
    assert result.rows("test").tolist() == list(range(300, 450))
    assert result.excluded.tolist() == list(range(250, 300))


def test_without_shares_a_sets_own_division_is_followed_as_it_is(dataset_of: DatasetOf) -> None:
    spec = Spec(rule="column", column="role", fusion=0, calibration=0)
    drawn = divided({"x": np.arange(90), "y": np.arange(90) % 2})
    assert roles_of(split(dataset(dataset_of, drawn, spec), spec)) == drawn["role"].tolist()


@pytest.mark.parametrize("role", ["fusion", "calibration"])
def test_a_share_that_takes_no_train_row_is_refused(dataset_of: DatasetOf, refusal: Callable[..., str], role: str) -> None:
    spec = Spec(rule="column", column="role", **{"fusion": 0, "calibration": 0, role: 1e-9})
    data = dataset(dataset_of, divided({"x": np.arange(90), "y": np.arange(90) % 2}), spec)
    assert f"no row fell to the role {role!r}" in refusal(DataError, split, data, spec)


# ---------------------------------------------------------------------------------------------------------------- units


def test_units_are_groups_or_contents(dataset_of: DatasetOf) -> None:
    groups, x = np.array(["p", "q", "p", "q"]), [[1], [1], [2], [3]]
    data = dataset_of(x, {"y": np.arange(4.0)}, groups)
    apart = dataset_of([[1], [4], [2], [3]], {"y": np.arange(4.0)}, groups)
    by_group, by_content = [0, 1, 0, 1], [True, False, False]
    for name in ("stable by group", "group"):
        assert units(apart, RULES[name]).tolist() == by_group
        assert units(data, RULES[name]).tolist() == [0, 0, 0, 0], "groups that share a content are one unit"
    for name in ("stratified", "time", "column"):
        numbers = units(data, RULES[name])
        assert [numbers[0] == numbers[1], numbers[0] == numbers[2], numbers[2] == numbers[3]] == by_content


# ------------------------------------------------------------------------------------------------------------- too small


@pytest.mark.parametrize("name", ["stable", "stratified", "group", "time"])
def test_too_few_rows_are_refused(dataset_of: DatasetOf, refusal: Callable[..., str], name: str) -> None:
    drawn = {"x": np.arange(2), "y": np.arange(2), "g": np.array(["a", "b"]), "t": np.arange(2.0)}
    assert "memory: " in refusal(DataError, split, dataset(dataset_of, drawn, RULES[name]), RULES[name])


@pytest.mark.parametrize("role", ["train", "test"])
def test_the_empty_role_is_named(dataset_of: DatasetOf, refusal: Callable[..., str], role: str) -> None:
    given_roles = [other for other in ROLES if other != role] * 3
    data = dataset_of(np.arange(9)[:, None], {"y": np.arange(9.0)}, np.array(given_roles))
    assert f"no row fell to the role {role!r}" in refusal(DataError, split, data, RULES["column"])


@pytest.mark.parametrize("role", ["fusion", "calibration"])
def test_a_column_of_roles_may_leave_out_what_the_recipe_does_not_need(dataset_of: DatasetOf, role: str) -> None:
    given_roles = [other for other in ROLES if other != role] * 3
    data = dataset_of(np.arange(9)[:, None], {"y": np.arange(9.0)}, np.array(given_roles))
    assert len(split(data, RULES["column"]).rows(role)) == 0


def test_a_role_without_a_share_may_be_empty(dataset_of: DatasetOf) -> None:
    data = dataset_of(np.arange(400)[:, None], {"y": np.arange(400) % 2})
    result = split(data, Spec(fusion=0, calibration=0))
    assert len(result.rows("fusion")) == len(result.rows("calibration")) == 0
    assert len(result.rows("train", "test")) == 400


@pytest.mark.parametrize("role", ["train", "test"])
def test_a_class_that_is_missing_in_train_or_test_is_named(dataset_of: DatasetOf, refusal: Callable[..., str], role: str) -> None:
    roles = np.array(list(ROLES) * 5)
    labels = np.where(roles == role, 0, np.arange(20) // 4 % 2)
    data = dataset_of(np.arange(20)[:, None], {"y": labels}, roles, {"y": ["cat", "dog"]})
    sentence = refusal(DataError, split, data, RULES["column"])
    assert f"target 'y': no row of class 'dog' fell to the role {role!r}" in sentence


@pytest.mark.parametrize("role", ["fusion", "calibration"])
def test_other_roles_may_lack_a_class(dataset_of: DatasetOf, role: str) -> None:
    roles = np.array(list(ROLES) * 5)
    labels = np.where(roles == role, 0, np.arange(20) // 4 % 2)
    assert len(split(dataset_of(np.arange(20)[:, None], {"y": labels}, roles), RULES["column"]).rows(role)) == 5
