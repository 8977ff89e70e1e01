"""Words that a recipe, the data and a packaged ensemble share."""

from typing import Annotated, Literal

from pydantic import StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
Kind = Literal["classification", "ordinal", "multilabel", "regression", "quantile"]
EXCLUSIVE: frozenset[Kind] = frozenset({"classification", "ordinal"})
"""The kinds whose prediction is one distribution over classes."""
Role = Literal["train", "fusion", "calibration", "test"]
