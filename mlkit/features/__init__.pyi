"""Level 2: bars to a float32 matrix by causal step kernels.

Each name is imported on first use, so ``import mlkit.features`` compiles nothing."""

# Table of every built-in feature.
from .catalogue import feature_catalogue as feature_catalogue

# A feature of one or several columns; made by feature or pandas_ta, called as the function it wraps.
from .custom import Feature as Feature

# Make a plain pandas function a feature.
from .custom import feature as feature

# GARCH(1,1) omega, alpha, beta until fitted ones are passed.
from .engine import DEFAULT_GARCH as DEFAULT_GARCH

# The features bar by bar: the same kernel as build_features, so the same bits.
from .engine import FeatureStream as FeatureStream

# Every feature of every bar, or the features that are asked for.
from .engine import build_features as build_features

# Expected standard deviation of the log return over each horizon, known at the close of each bar.
from .engine import volatility_scale as volatility_scale

# Every feature of the catalogue, then a researcher's own ones, each of which passed the laws.
from .feature_set import FeatureSet as FeatureSet

# A FeatureSet bar by bar: catalogue columns by their kernels, own ones recomputed on the newest bars.
from .feature_set import FeatureSetStream as FeatureSetStream

# Bars that fit_garch needs.
from .garch import MIN_BARS as MIN_BARS

# Maximum-likelihood GARCH(1,1) of the log returns, zero mean, normal errors (Bollerslev 1986).
from .garch import fit_garch as fit_garch

# An indicator of pandas-ta-classic as an own feature.
from .indicators import pandas_ta as pandas_ta

# Tell the user on standard error when the next call is going to compile for a while.
from .kernel import announce_compilation as announce_compilation

# Digest of source files, for a cache that must notice a change in any of them.
from .kernel import sources_stamp as sources_stamp

# A feature that breaks a law; the message names the law, the column and the bar that changed.
from .laws import LawError as LawError

# What check_feature found; empty breaches mean that every column passed.
from .laws import LawReport as LawReport

# Put a feature function through the laws.
from .laws import check_feature as check_feature

# The patterns by name, in the order of all tables of patterns.
from .rules import PATTERNS as PATTERNS

# Each pattern as a rule: direction, warm-up, candles, where the standards differ.
from .rules import RULES as RULES

# The two definitions of the patterns: "classic" and "continuous".
from .rules import STANDARDS as STANDARDS

# Bars that each pattern needs before its first verdict.
from .rules import WARM_UP as WARM_UP
from .rules import Standard as Standard

# Direction of every pattern at every bar, known at the bar's close.
from .rules import pattern_flags as pattern_flags

# State of the rules before the first bar; pass it to pattern_flags to go on from bar to bar.
from .rules import rule_state as rule_state

# Folder of a market, relative to that of all of them.
from .saved import place_of as place_of

# Write the features of every bar, unless the very same ones are there.
from .saved import save_features as save_features

# Logarithms of causal volatility estimates, and the seasons of day and week, row by row.
from .volatility import volatility_terms as volatility_terms
