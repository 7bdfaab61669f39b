"""What is fitted has the same bits for any number of threads of the linear algebra library."""

import os
import subprocess
import sys

CODE = """
import numpy as np

import mlkit
from mlkit.features.garch import fit_garch
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.training.training import fit_price
from mlkit.operations.training.training_set import prepare

bars = mlkit.load_bars("SP500", "1d")
settings, few = mlkit.Settings(), EnsembleSettings.smoke(n_estimators=4, forest_trees=4, n_threads=1)
garch = fit_garch(bars.iloc[:4000])
data = prepare(bars, settings.prediction_horizons, garch)
model = fit_price(data, np.arange(4000), settings, ensemble=few)
print([x.hex() for x in garch], sorted(model.to_bytes().items()))
"""


def test_the_number_of_blas_threads_changes_no_bit_of_a_fit() -> None:
    told = set()
    for threads in ("1", "2"):
        environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)}
        told.add(subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, check=True).stdout)
    assert len(told) == 1
