"""The model file that MLflow runs when it loads a packaged ensemble (models from code: nothing is unpickled)."""

from pathlib import Path

import mlflow.pyfunc

from fuseline.package.files import load_description, load_ensemble
from fuseline.package.predict import predict


class EnsembleModel(mlflow.pyfunc.PythonModel):
    _skip_type_hint_validation = True  # MLflow asks for type hints to check rows by; the package checks them itself

    def load_context(self, context):
        folder = Path(context.artifacts["ensemble"])
        self.ensemble = load_ensemble(folder)  # looks whether the files are whole
        self.description = load_description(folder)

    def predict(self, context, model_input, params=None):
        return predict(self.ensemble, model_input, self.description.batch, self.description.threads)


mlflow.models.set_model(EnsembleModel())
