"""Write ``kinds.parquet``: scikit-learn's 442 diabetes patients with one target of every kind, some of them missing.

    python recipes/make_kinds.py

``grade`` is the progression in four grades, cut at the quartiles that Efron et al.'s data have (87, 140.5, 211.5); ``signs``
are four findings of a patient: progression above 150, above 250, a body mass index and a blood pressure in the upper third.
Where the findings are made of a measurement, that measurement is no input.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes

SEED = 5


def kinds() -> pd.DataFrame:
    """The patients, with five targets."""
    table = load_diabetes(as_frame=True, scaled=False).frame
    random = np.random.default_rng(SEED)
    progression = table["target"]
    frame = table.drop(columns=["target", "bmi", "bp"])
    frame["sex"] = np.where(table["sex"] == table["sex"].max(), "two", "one")
    frame["patient"] = [f"patient {i}" for i in range(len(frame))]
    frame["progression"] = progression
    frame["range"] = progression.where(random.random(len(frame)) > 0.1)
    frame["grade"] = np.searchsorted([87, 140.5, 211.5], progression) + 1
    frame["course"] = np.where(progression > 200, "fast", "slow")
    frame["course"] = frame["course"].where(random.random(len(frame)) > 0.2, None)
    signs = {"above_150": progression > 150, "above_250": progression > 250}
    signs |= {name: table[name] > table[name].quantile(2 / 3) for name in ("bmi", "bp")}
    for name, sign in signs.items():
        frame[f"sign_{name}"] = sign.astype(float).where(random.random(len(frame)) > 0.05)
    return frame


if __name__ == "__main__":
    kinds().to_parquet(Path(__file__).with_name("kinds.parquet"))
