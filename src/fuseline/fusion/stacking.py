"""``stacking``: a linear model on what the members say.

Shapes: M members, B rows, C classes, labels or quantiles, P inputs of a row.
"""

from __future__ import annotations

import warnings
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from fuseline.fusion.combine import Combiner, Outputs
from fuseline.fusion.linear import Entrywise, Linear, Logistic, log_probabilities, logits
from fuseline.fusion.pinball import quantile_regression

Floats = NDArray[np.float64]


def stacking(
    outputs: Outputs,
    target: Tensor,
    generator: torch.Generator,
    *,
    l2: Annotated[float, Field(gt=0, le=1e6)] = 10.0,
    passthrough: bool = False,
) -> Combiner:
    """Stacked generalisation (Wolpert 1992; Breiman 1996 for values), for every kind.

    Classes: multinomial logistic regression on the members' log probabilities. Labels: a logistic regression each, on the
    members' logits of that label alone: M numbers, and not M·C, to learn from the few rows on which a label is known. Values:
    ridge regression on theirs. Quantiles: for each level a linear quantile regression on the members' quantiles of that level
    (Nowotarski and Weron 2015), in units of the target's spread and shrunk towards the members' mean.

    ``l2`` is the penalty on the squared coefficients; on the sizes of them for quantiles, which stays a linear programme. With
    ``passthrough`` the rows' own inputs, standardised, are further columns under the same penalty.
    """
    own = _own_inputs(outputs) if passthrough else None
    y = target.numpy()
    if outputs.exclusive:
        return _logistic(outputs, y, l2, own)
    if outputs.kind == "regression":
        return _ridge(outputs, y, l2, own)
    found = (_labels if outputs.kind == "multilabel" else _quantiles)(outputs, y, l2, own)
    coefficients, intercept = np.stack([slopes for slopes, _ in found]), np.array([bias for _, bias in found])
    return Entrywise(_tensors(coefficients, intercept, len(outputs.values), own))


class _Own(NamedTuple):
    """The rows' own inputs, standardised (B, P), and by what."""

    columns: Floats
    mean: Tensor
    scale: Tensor


def _own_inputs(outputs: Outputs) -> _Own:
    assert outputs.inputs is not None
    inputs = outputs.inputs.double()
    mean, scale = inputs.mean(0), inputs.std(0, correction=0)
    scale = torch.where(scale > 1e-9 * mean.abs(), scale, 1.0)  # an input that does not vary
    return _Own(((inputs - mean) / scale).numpy(), mean, scale)


def _beside(said: Floats, own: _Own | None) -> Floats:
    return said if own is None else np.hstack([said, own.columns])


def _tensors(coefficients: Floats, intercept: Floats, said: int, own: _Own | None) -> dict[str, Tensor]:
    """A linear combiner's buffers from coefficients (C, columns), of which the first ``said`` are on what the members say."""

    def tensor(array: Floats) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array))

    tensors = {"coefficients": tensor(coefficients[:, :said]), "intercept": torch.from_numpy(np.asarray(intercept))}
    if own is not None:
        tensors |= {"on_inputs": tensor(coefficients[:, said:]), "input_mean": own.mean, "input_scale": own.scale}
    return tensors


def _logistic(outputs: Outputs, y: NDArray[np.int64], l2: float, own: _Own | None) -> Combiner:
    """A class that ``y`` lacks keeps zero coefficients and the intercept of a class seen half a time."""
    classes = outputs.values.shape[2]
    x = _beside(log_probabilities(outputs).numpy(), own)
    said = len(outputs.values) * classes
    if len(np.unique(y)) == 1:  # nothing to separate: the one class seen, as far as so many rows without another allow
        intercept = np.full(classes, np.log(0.5 / len(y)))
        intercept[y[0]] = 0.0
        return Logistic(_tensors(np.zeros((classes, x.shape[1])), intercept, said, own))
    rotated, back = _rotated(x)
    model = _fit_logistic(rotated, y, l2)
    weights, bias = model.coef_ @ back if back is not None else model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    coefficients = np.zeros((classes, weights.shape[1]))
    intercept = np.full(classes, bias.min() + np.log(0.5 / np.bincount(y).max()))
    coefficients[model.classes_], intercept[model.classes_] = weights, bias
    return Logistic(_tensors(coefficients, intercept, said, own))


def _rotated(x: Floats) -> tuple[Floats, Floats | None]:
    """The rows (B, P) in coordinates of the space that they span (B, r), and its basis (r, P), if columns are twice as many.

    With a penalty on their squares the best coefficients are combinations of the rows, so those found in that space, times the
    basis, are the best of all (Hastie and Tibshirani 2004). Of 838 rows and 10 000 columns, a step of the solver took a quarter
    of the time.
    """
    if 2 * len(x) > x.shape[1]:
        return x, None
    sizes, vectors = np.linalg.eigh(x @ x.T)
    kept = sizes > 1e-12 * sizes[-1]
    length = np.sqrt(sizes[kept])
    return vectors[:, kept] * length, (vectors[:, kept] / length).T @ x


def _fit_logistic(x: Floats, y: NDArray[np.int64], l2: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the optimum to a few digits is enough; cross-fitting judges it
        return LogisticRegression(C=1 / l2, max_iter=500).fit(x, y)


def _ridge(outputs: Outputs, y: Floats, l2: float, own: _Own | None) -> Combiner:
    """Ridge on values in units of the target's spread, shrunk towards the members' mean rather than towards nothing."""
    values = outputs.values[:, :, 0].numpy().T
    unit = y.std() or 1.0
    even = values.mean(1)
    model = Ridge(alpha=l2).fit(_beside((values - even.mean()) / unit, own), (y - even) / unit)
    coefficients, intercept = _from_mean(model.coef_, float(model.intercept_), values, unit)
    tensors = _tensors(coefficients[None], np.asarray(intercept), values.shape[1], own)
    return Linear(tensors | {"coefficients": tensors["coefficients"][0]})


def _from_mean(slopes: Floats, bias: float, values: Floats, unit: float) -> tuple[Floats, float]:
    """Coefficients and intercept in the target's units, of a fit of (y − mean)/unit on (values (B, M) − their mean)/unit."""
    members = values.shape[1]
    coefficients = np.append(slopes[:members] + 1 / members, slopes[members:] * unit)
    return coefficients, bias * unit - slopes[:members].sum() * values.mean(1).mean()


def _labels(outputs: Outputs, y: Floats, l2: float, own: _Own | None) -> list[tuple[Floats, float]]:
    """Each label's coefficients and intercept, from the rows on which it is known."""
    said = logits(outputs).numpy()
    found = []
    for label in range(y.shape[1]):
        known = ~np.isnan(y[:, label])
        x = _beside(said[:, :, label].T, own)[known]
        found.append(_label(x, y[known, label].astype(np.int64), len(said), l2))
    return found


def _label(x: Floats, y: NDArray[np.int64], members: int, l2: float) -> tuple[Floats, float]:
    """Of a label that is known nowhere the members' mean logit; of one seen with one value only that value, as far as so many
    rows without the other allow."""
    if len(y) == 0:
        return (np.arange(x.shape[1]) < members) / members, 0.0
    if y.min() == y.max():
        return np.zeros(x.shape[1]), float(np.log(2 * len(y))) * (1 if y[0] else -1)
    model = _fit_logistic(x, y, l2)
    return model.coef_[0], float(model.intercept_[0])


def _quantiles(outputs: Outputs, y: Floats, l1: float, own: _Own | None) -> list[tuple[Floats, float]]:
    """Each level's coefficients and intercept."""
    assert outputs.task is not None
    unit = y.std() or 1.0
    found = []
    for q, level in enumerate(outputs.task.levels):
        values = outputs.values[:, :, q].numpy().T
        even = values.mean(1)
        slopes, bias = quantile_regression(_beside((values - even.mean()) / unit, own), (y - even) / unit, level, l1)
        found.append(_from_mean(slopes, bias, values, unit))
    return found
