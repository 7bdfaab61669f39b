"""The price ensemble: tree learners, calibration, prediction intervals."""

# Fewest held-out rows that a calibration is fitted on.
from .calibration import MIN_ROWS as MIN_ROWS

# Number of the calendar block that each bar lies in, (n,), from its open time and the length of a bar.
from .conformal import block_numbers as block_numbers

# Packages that provide the libraries of the learners.
from .learners import DISTRIBUTIONS as DISTRIBUTIONS

# The learners by name, in the order in which their scores are added and reported.
from .learners import LEARNERS as LEARNERS

# Modules that the learners import to train.
from .learners import MODULES as MODULES

# Rows of X in memory at once where the training arrays are files: 52 MB of 197 features.
from .learners.learner import ROWS_IN_MEMORY as ROWS_IN_MEMORY

# How to train on rows that do not fit into memory: a folder, and the rows of X in memory at once.
from .learners.learner import DiskBatches as DiskBatches

# A fitted ensemble; immutable. Make one with its `fit` or `from_bytes`.
from .price_predictor import PricePredictor as PricePredictor

# Columns of a forecast in tables: expected log return, probability of a rise, deviation, interval bounds.
from .settings import FORECAST_COLUMNS as FORECAST_COLUMNS

# How the ensemble is trained; `smoke()` takes seconds, `full()` are the defaults.
from .settings import EnsembleSettings as EnsembleSettings

# Features, float32 (n, F).
from .settings import Float32Matrix as Float32Matrix

# One column a horizon, float64 (n, H).
from .settings import FloatMatrix as FloatMatrix

# float64 (n,).
from .settings import FloatVector as FloatVector

# Predictive distribution of the log return, per row and horizon; known at the close of the row's bar.
from .settings import Forecast as Forecast

# Label end positions, int64 (n, H).
from .settings import IntMatrix as IntMatrix

# int64 (n,).
from .settings import IntVector as IntVector

# Callback `(stage, done, total)` after every stage of a training.
from .settings import Progress as Progress

# Features and labels that an ensemble is trained on, checked.
from .split import TrainingArrays as TrainingArrays

# Rows with finite features and a positive scale.
from .split import usable_rows as usable_rows
