"""Tracking and registry: the only package that imports mlflow (but for the model file that MLflow itself loads)."""

import os
import warnings

# these must stand before mlflow is imported
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is for the summary

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # mlflow warns of its own type hints while it is imported
    import mlflow.pyfunc  # noqa: F401
