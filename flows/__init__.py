"""The flows: the outermost layer. Importing them turns the telemetry of Prefect and MLflow off, unless the environment says
otherwise; both read these names when they are first imported."""

import os

for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}.items():
    os.environ.setdefault(_name, _value)
