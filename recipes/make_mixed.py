"""Write ``mixed.parquet`` beside this script: scikit-learn's wines as a table with an id, words, gaps and two targets.

    python recipes/make_mixed.py

``cultivar`` is the classification target and ``proline`` the regression target. Alcohol is given as a word (``light``,
``medium``, ``strong``), and four in a hundred input values are missing. The same every time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_wine

SEED = 0
MISSING = 0.04
TARGETS = ["cultivar", "proline"]


def mixed() -> pd.DataFrame:
    """The table (178 rows): ``bottle``, eleven measurements, ``strength`` and the two targets."""
    wine = load_wine(as_frame=True)
    frame = wine.data.rename(columns={"od280/od315_of_diluted_wines": "dilution"})
    strength = pd.cut(frame.pop("alcohol"), [0, 12.5, 13.5, 100], labels=["light", "medium", "strong"]).astype(object)
    frame.insert(0, "strength", strength)
    frame["cultivar"] = wine.target_names[wine.target]
    frame = blanked(frame, [name for name in frame.columns if name not in TARGETS])
    frame.insert(0, "bottle", [f"bottle-{i:03}" for i in range(1, len(frame) + 1)])
    return frame


def blanked(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The table with a share ``MISSING`` of those columns' values missing, drawn by ``SEED``."""
    holes = np.random.default_rng(SEED).random((len(frame), len(columns))) < MISSING
    return frame.assign(**{name: frame[name].mask(holes[:, j], None) for j, name in enumerate(columns)})


if __name__ == "__main__":
    place = Path(__file__).with_name("mixed.parquet")
    mixed().to_parquet(place, index=False)
    print(f"wrote {place.name}")
