"""``stacking``: a linear model on what the members say."""

from __future__ import annotations

import warnings
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from fuseline.fusion.combine import Combiner, Linear, Logistic, Outputs, log_probabilities


def stacking(
    outputs: Outputs, target: Tensor, generator: torch.Generator, *, l2: Annotated[float, Field(gt=0, le=1e6)] = 10.0
) -> Combiner:
    """Stacked generalisation (Wolpert 1992; Breiman 1996 for values).

    Multinomial logistic regression on the members' log probabilities, or ridge regression on their values; ``l2`` is the
    penalty on the squared coefficients.
    """
    y = target.numpy()
    if outputs.variances is None:
        return _logistic(outputs, y, l2)
    return _ridge(outputs, y, l2)


def _logistic(outputs: Outputs, y: NDArray[np.int64], l2: float) -> Combiner:
    """A class that ``y`` lacks keeps zero coefficients and the intercept of a class seen half a time."""
    classes = outputs.values.shape[2]
    if len(np.unique(y)) == 1:  # nothing to separate: the one class seen, as far as so many rows without another allow
        intercept = np.full(classes, np.log(0.5 / len(y)))
        intercept[y[0]] = 0.0
        coefficients = np.zeros((classes, len(outputs.values) * classes))
        return Logistic({"coefficients": torch.from_numpy(coefficients), "intercept": torch.from_numpy(intercept)})
    model = LogisticRegression(C=1 / l2, max_iter=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the optimum to a few digits is enough; cross-fitting judges it
        model.fit(log_probabilities(outputs).numpy(), y)
    weights, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    coefficients = np.zeros((classes, weights.shape[1]))
    intercept = np.full(classes, bias.min() + np.log(0.5 / np.bincount(y).max()))
    coefficients[model.classes_], intercept[model.classes_] = weights, bias
    return Logistic({"coefficients": torch.from_numpy(coefficients), "intercept": torch.from_numpy(intercept)})


def _ridge(outputs: Outputs, y: NDArray[np.float64], l2: float) -> Combiner:
    """Ridge on values in units of the target's spread, shrunk towards the members' mean rather than towards nothing."""
    values = outputs.values[:, :, 0].numpy().T
    unit = y.std() or 1.0
    even = values.mean(1)
    model = Ridge(alpha=l2).fit((values - even.mean()) / unit, (y - even) / unit)
    coefficients = model.coef_ + 1 / values.shape[1]
    intercept = model.intercept_ * unit - model.coef_.sum() * even.mean()
    return Linear(
        {"coefficients": torch.from_numpy(coefficients), "intercept": torch.tensor(float(intercept), dtype=torch.float64)}
    )
