"""Tracking and registry: the only package that imports mlflow (but for the model file that MLflow itself loads).

A run tells a spool on disk (``spool``), and a thread of its process tells MLflow (``deliver``): so the run neither waits for
MLflow nor fails because of it. What a run itself calls imports nothing of MLflow.
"""

import os
import warnings

# these must stand before mlflow is imported
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is for the summary
warnings.filterwarnings("ignore", ".*(Any type hint|Add type hints)", UserWarning)  # mlflow warns of its own while it is imported
