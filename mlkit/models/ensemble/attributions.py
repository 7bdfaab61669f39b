"""Why a score is what it is: each feature's share, by the boosting libraries' own tree explainers."""

from collections.abc import Mapping

import numpy as np

from mlkit.errors import DependencyError
from mlkit.models.ensemble.settings import Float32Matrix, FloatMatrix, FloatVector


def xgboost_contributions(data: bytes, X: Float32Matrix) -> FloatMatrix:
    """Contributions of every feature and, last, the bias: (n, F + 1); rows sum to the score of the file's model."""
    try:
        import xgboost
    except ImportError as error:
        raise DependencyError("attributions need xgboost: pip install 'mlkit[train]'") from error
    booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(data))
    return np.asarray(booster.predict(xgboost.DMatrix(X, nthread=1), pred_contribs=True), dtype=np.float64)


def lightgbm_contributions(data: bytes, X: Float32Matrix) -> FloatMatrix:
    """The same of a LightGBM file."""
    try:
        import lightgbm
    except ImportError as error:
        raise DependencyError("attributions need lightgbm: pip install 'mlkit[train]'") from error
    booster = lightgbm.Booster(model_str=data.decode())
    return np.asarray(booster.predict(X, pred_contrib=True, num_threads=1), dtype=np.float64)


EXPLAINERS = {"xgboost": xgboost_contributions, "lightgbm": lightgbm_contributions}


def attribute(
    files: Mapping[str, bytes], scores: Mapping[str, FloatVector], weights: Mapping[str, float], X: Float32Matrix
) -> FloatMatrix:
    """Weighted contributions of all members for one horizon.

    Parameters
    ----------
    files : model file of each boosted member
    scores : score of every member, (n,) each
    weights : of the members
    X : features, float32 (n, F), finite

    Returns
    -------
    float64 (n, F + 1): a feature a column; the last one holds what no feature is charged with, the bias and the whole
    score of members that cannot explain themselves (the random forest). Rows sum to the weighted score.

    References
    ----------
    Lundberg et al. (2020), *Nature Machine Intelligence* 2: TreeSHAP, which both libraries implement.
    """
    out = np.zeros((len(X), X.shape[1] + 1))
    for name, weight in weights.items():
        if name in files:
            out += weight * EXPLAINERS[name](files[name], X)
        else:
            out[:, -1] += weight * scores[name]
    return out
