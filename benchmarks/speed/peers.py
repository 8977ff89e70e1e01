"""torchensemble's side. It runs in the peers' environment."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset
from torchensemble import VotingClassifier

from speed.plain import RATE


def vote(network: type[torch.nn.Module], arguments: dict[str, Any], members: int, epochs: int, size: int, x: Any, y: Any) -> Any:
    """Fit a VotingClassifier as its documentation does: its own fit over a DataLoader, ``n_jobs`` as it comes, nothing saved,
    no test loader. It prints a line each 100 batches."""
    logging.disable(logging.CRITICAL)
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=size, shuffle=True)
    ensemble = VotingClassifier(estimator=network, estimator_args=arguments, n_estimators=members, cuda=False)
    ensemble.set_optimizer("AdamW", lr=RATE)
    ensemble.fit(loader, epochs=epochs, save_model=False)
    return ensemble.eval()
