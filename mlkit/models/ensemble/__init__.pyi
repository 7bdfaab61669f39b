"""The price ensemble: tree learners, calibration, prediction intervals."""

from .calibration import MIN_ROWS as MIN_ROWS

# Block of the calendar that each bar lies in, (n,), from its open time and a bar's length in the same unit.
from .conformal import block_numbers as block_numbers

# Rows in memory at once: 52 mb of 197 features
from .external_memory import BATCH as BATCH

# PricePredictor.fit for arrays in files (numpy.memmap), holding few rows in memory.
from .external_memory import fit_larger_than_memory as fit_larger_than_memory

# A fitted ensemble; immutable. Make one with :meth:fit or :meth:from_files.
from .price_predictor import PricePredictor as PricePredictor

# How the price ensemble is trained; smoke() takes seconds, full() is the real thing.
from .settings import EnsembleSettings as EnsembleSettings

# Features, (n, f)
from .settings import Float32Matrix as Float32Matrix

# One column a horizon, (n, h)
from .settings import FloatMatrix as FloatMatrix

# (n,)
from .settings import FloatVector as FloatVector

# Predictive distribution of the log return, per row and horizon; known at the close of the row's bar.
from .settings import Forecast as Forecast

# Label end positions, (n, h)
from .settings import IntMatrix as IntMatrix

# (n,)
from .settings import IntVector as IntVector

# Told after every stage of a training; done counts up to total.
from .settings import Progress as Progress

# Rows with finite features and a positive scale; one pass over X, no matrix-sized temporary.
from .split import usable_rows as usable_rows
