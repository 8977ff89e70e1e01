"""``by_class``: members that each know some of the classes.

Shapes: M members, N rows, C classes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fuseline.data.dealing import deal
from fuseline.data.schema import Schema
from fuseline.errors import RecipeError
from fuseline.partition.shares import Generators, Pool, Rows, Share, Shares

Copies = Annotated[int, Field(ge=1, le=1000)]
Fraction = Annotated[float, Field(gt=0, le=1)]


def expert_target(schema: Schema) -> str | None:
    """The target whose classes are dealt to experts: the first with exclusive classes, or none."""
    return next((name for name, target in schema.targets.items() if target.exclusive), None)


def by_class(
    pool: Pool,
    members: Generators,
    generator: np.random.Generator,
    *,
    copies: Copies = 1,
    rest: Literal["other", "absent"] = "other",
    rest_fraction: Fraction = 1.0,
) -> Shares:
    """Experts: the classes of the first target with exclusive classes are dealt to the members.

    Each class goes to at least ``copies`` members and each member gets at least one class (two if ``rest`` is "absent",
    since nothing is learnt from one class alone), as evenly as may be: T = max(copies · C, least · M) places in all, so a member
    gets ⌊T/M⌋ or ⌈T/M⌉ classes and a class goes to ⌊T/C⌋ or ⌈T/C⌉ members. With more members than places that ``copies`` asks
    for, a class so has more copies than asked. Places are even in classes and not in rows: who is dealt a frequent class has
    more rows.

    With ``rest: other`` a member also sees ``rest_fraction`` of the rows of all other classes, stratified, whole units, drawn by
    its own generator, and ``Share.own`` holds its own classes (or nothing, where these are all); training makes one event of
    the others, as the specialists of Hinton et al. 2015 (section 5) do with their dustbin class. Rows of unknown class count
    among the others: they teach nothing about this target, but may teach other targets. A fraction below one makes the others
    rarer than they are, so a member's probabilities of its own classes come out too high; nothing here corrects that.

    With ``rest: absent`` a member sees the rows of its own classes alone, and of no row whose class is unknown. It is sure of
    itself on rows of classes that it never saw; a fusion must know better.

    A unit that holds several classes is kept whole among the rows of the other classes that a member sees; its rows of
    the member's own classes are always seen.

    Raises:
        RecipeError: no target has exclusive classes, or there are fewer members than copies.
    """
    assert pool.dataset is not None, "the rule reads classes"
    schema = pool.dataset.schema
    target = expert_target(schema)
    if target is None:
        raise RecipeError("partition.by_class: no target has exclusive classes that could be dealt; use the rule 'disjoint'.")
    if copies > len(members):
        text = f"partition.by_class.copies: {copies} members can't know each class when there are {len(members)}"
        raise RecipeError(f"{text}; use more members or fewer copies.")
    codes = np.asarray(pool.dataset.targets[target])[pool.rows]
    width = schema.targets[target].width
    dealt = _deal_classes(width, len(members), copies, 1 if rest == "other" else 2, generator)
    if rest == "absent":
        return [[Share(pool.rows[np.isin(codes, own)])] for own in dealt]
    return [
        [Share(_with_rest(pool, codes, own, rest_fraction, member), own=own if len(own) < width else own[:0])]
        for own, member in zip(dealt, members, strict=True)
    ]


def _deal_classes(classes: int, members: int, copies: int, least: int, generator: np.random.Generator) -> list[Rows]:
    """The class codes of each member, ascending: each takes those that the fewest have so far, ties by chance.

    >>> [own.tolist() for own in _deal_classes(5, 2, 1, 1, np.random.default_rng(0))]
    [[2, 4], [0, 1, 3]]
    """
    places = max(classes * copies, least * members)
    known = np.zeros(classes, np.int64)
    dealt = []
    for m in range(members):
        size = places * (m + 1) // members - places * m // members
        order = generator.permutation(classes)
        own = np.sort(order[np.argsort(known[order], kind="stable")][:size])
        known[own] += 1
        dealt.append(own)
    return dealt


def _with_rest(pool: Pool, codes: NDArray[np.int64], own: Rows, fraction: float, generator: np.random.Generator) -> Rows:
    mine = np.isin(codes, own)
    if fraction == 1 or mine.all():
        return pool.rows
    others = np.flatnonzero(~mine)
    fraction = max(fraction, 1 / len(np.unique(pool.units[others])))  # one unit at least
    drawn = others[deal(codes[others], pool.units[others], [1 - fraction, fraction], generator) == 1]
    mine[drawn] = True
    return pool.rows[mine]
