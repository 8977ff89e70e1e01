"""fuseline trains, fuses, evaluates and promotes deep ensembles in PyTorch."""

__version__ = "0.2.0"
