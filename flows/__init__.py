"""The flows: the outermost layer. Importing them turns the telemetry of Prefect and MLflow off, and MLflow's progress bars of
files, unless the environment says otherwise; both read these names when they are first imported."""

import os

for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(_name, _value)
