"""The combiners by name, as a package's description names them."""

from __future__ import annotations

from fuseline.fusion.attention import AttentionHead
from fuseline.fusion.combine import Combiner, FeatureHead, Mixture, Vote
from fuseline.fusion.experts import Gate
from fuseline.fusion.linear import Entrywise, Linear, Logistic
from fuseline.fusion.neighbours import Neighbours
from fuseline.fusion.pools import Product, Trimmed
from fuseline.fusion.pruned import Pruned

COMBINERS: dict[str, type[Combiner]] = {
    "mixture": Mixture,
    "vote": Vote,
    "logistic": Logistic,
    "linear": Linear,
    "entrywise": Entrywise,
    "product": Product,
    "pruned": Pruned,
    "trimmed": Trimmed,
    "feature_head": FeatureHead,
    "attention_head": AttentionHead,
    "gate": Gate,
    "neighbours": Neighbours,
}


def combiner_name(combiner: Combiner) -> str:
    return next(name for name, kind in COMBINERS.items() if type(combiner) is kind)
