"""Tracking and registry: the only package that imports mlflow (but for the model file that MLflow itself loads)."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # must stand before mlflow is imported
