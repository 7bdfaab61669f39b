"""Optuna studies of the ensemble and the pattern CNN."""

# Write the file beside one's own weights atomically, and return its path.
from .cnn_tuning import save_tuned_patterns as save_tuned_patterns

# Bring a study of the pattern CNN to a number of trials, and compare its best with the default.
from .cnn_tuning import tune_patterns as tune_patterns
from .ensemble_tuning import FOLDS as FOLDS

# Of the bars: the test span that tuning never sees
from .ensemble_tuning import HELD_BACK as HELD_BACK
from .ensemble_tuning import SPACE as SPACE
from .ensemble_tuning import save_tuned as save_tuned

# Bring a study of the price ensemble to a number of trials, and compare its best with the default.
from .ensemble_tuning import tune as tune

# The tuned parameters of a market; ConfigError where there are none, or the file is damaged.
from .tuned import load_tuned as load_tuned
