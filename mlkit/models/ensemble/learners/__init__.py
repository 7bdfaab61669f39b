"""The libraries whose scores the price ensemble adds up: one file each, and one entry in ``LEARNERS``."""

from mlkit.models.ensemble.learners.learner import Learner
from mlkit.models.ensemble.learners.lightgbm import LightGBM
from mlkit.models.ensemble.learners.random_forest import RandomForest
from mlkit.models.ensemble.learners.xgboost import XGBoost

# In the order in which their scores are added and reported.
LEARNERS: dict[str, Learner] = {
    "xgboost": XGBoost(),
    "lightgbm": LightGBM(),
    "random_forest": RandomForest(),
}

# Modules that learners import to train, and the packages that provide them.
MODULES = tuple(dict.fromkeys(learner.module for learner in LEARNERS.values()))
DISTRIBUTIONS = tuple(dict.fromkeys(name for learner in LEARNERS.values() for name in learner.distributions))
