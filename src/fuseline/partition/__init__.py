"""Partition rules: which training rows each member learns from, and which of their inputs and classes.

A rule is a function ``(pool, members, generator, *, settings) → shares``, where ``members`` holds a generator of each member's
own, ``generator`` is common to all, and ``shares[m]`` holds one share per replica of member m. All rows are positions in the
data set.
"""

from __future__ import annotations

from fuseline.family import Family
from fuseline.partition.clusters import cluster
from fuseline.partition.experts import by_class, expert_target
from fuseline.partition.groups import by_group
from fuseline.partition.resampling import bootstrap, disjoint, full, kfold
from fuseline.partition.shares import Generators, Pool, Rows, Share, Shares, check_shares, hold_out
from fuseline.partition.skew import dirichlet
from fuseline.partition.statistics import coverage, overlap
from fuseline.partition.views import feature_subspace, masks

__all__ = [
    "PARTITIONS",
    "Generators",
    "Pool",
    "Rows",
    "Share",
    "Shares",
    "bootstrap",
    "by_class",
    "by_group",
    "check_shares",
    "cluster",
    "coverage",
    "dirichlet",
    "disjoint",
    "expert_target",
    "feature_subspace",
    "full",
    "hold_out",
    "kfold",
    "masks",
    "overlap",
]

PARTITIONS = Family(
    {
        "full": full,
        "bootstrap": bootstrap,
        "kfold": kfold,
        "disjoint": disjoint,
        "by_class": by_class,
        "dirichlet": dirichlet,
        "by_group": by_group,
        "cluster": cluster,
        "feature_subspace": feature_subspace,
    },
    "fuseline.partitions",
)
"""fuseline's own, and those of installed packages."""
