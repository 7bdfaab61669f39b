"""Optuna studies of the ensemble and the pattern CNN."""

# Run a study of the pattern CNN, and compare its best parameters with the default ones.
from .cnn_tuning import tune_patterns as tune_patterns

# Number of inner folds that score a trial, by profile.
from .ensemble_tuning import FOLDS as FOLDS

# Share of the bars, the newest ones, that tuning does not use.
from .ensemble_tuning import HELD_BACK as HELD_BACK

# Parameters of the ensemble that are searched: lowest, highest, whether on a logarithmic scale.
from .ensemble_tuning import SPACE as SPACE

# Run a study of the price ensemble, and compare its best parameters with the default ones.
from .ensemble_tuning import tune as tune

# The tuned parameters of a market; ConfigError where there are none, or the file is damaged.
from .tuned import load_tuned as load_tuned

# Write tuned.json of a market, or of the pattern CNN, atomically.
from .tuned import save_tuned as save_tuned
