"""Honest machine-learning research on market bars: the public names."""

# Settings of an environment: MLKIT_... variables, .env, defaults.
from .config import Settings as Settings

# Combinatorial purged cross-validation: every choice of test groups, joined into paths over the whole history.
from .evaluation import CombinatorialPurged as CombinatorialPurged

# Holds out the newest bars; every read of them is written to the trial ledger.
from .evaluation import FinalSpan as FinalSpan

# The trial ledger: an append-only log of every fit, shared by processes.
from .evaluation import Ledger as Ledger

# Walk-forward cross-validation without look-ahead: train on the past, test on the block that follows.
from .evaluation import WalkForward as WalkForward

# Features of the catalogue and a researcher's own, which are checked for leaks.
from .features import FeatureSet as FeatureSet

# The features bar by bar: the same kernel as build_features, so the same bits.
from .features import FeatureStream as FeatureStream

# Features of all bars, float32 (n_bars, n_features); by default all of the catalogue.
from .features import build_features as build_features

# Decorator that makes a plain pandas function a feature.
from .features import feature as feature

# Table of every built-in feature.
from .features import feature_catalogue as feature_catalogue

# The result for one closed bar: patterns, price forecasts, signals.
from .inference import Insight as Insight

# Turns bars into insights with the models of one bundle.
from .inference import Predictor as Predictor

# The insight of the latest bar of the lake, by the current bundle of its market.
from .inference import insights as insights

# The live panel of a market as a widget: the newest insight, updated while it is displayed.
from .inference.show import panel as panel

# Log return from close to close to each horizon, with the time at which it is known.
from .labels import forward_returns as forward_returns

# Which of the 15 patterns each bar completes, known at its close; several may hold at once.
from .labels import pattern_labels as pattern_labels

# One row for each market of the lake, from its manifest alone.
from .market import data_status as data_status

# Add the bars of a file, of all files of a folder, or of a frame to the lake, in one commit.
from .market import import_bars as import_bars

# Add the bars of several markets to the lake, each under the name in its symbol column or file name.
from .market import import_markets as import_markets

# Bars by name: the built-in SP500 and NASDAQ at 1d (from arch), else those of the lake.
from .market import load_bars as load_bars

# Report of suspicious values in valid bars: gaps, jumps, stale prices.
from .market import quality as quality

# Read bars from a file or a frame in memory, strictly: nothing is repaired.
from .market import read_bars as read_bars

# Bars of a larger timeframe: first open, highest high, lowest low, last close, summed volume.
from .market import resample as resample

# Replace the bars of a market of the lake.
from .market import save_bars as save_bars

# The bars in pieces without an outage, oldest first.
from .market import segments as segments

# Check the Bars contract and return a copy in canonical form.
from .market import validate_bars as validate_bars

# Collect closed bars from an exchange into the lake; calling it again resumes and continues.
from .market.collect import fetch_bars as fetch_bars

# Repair a frame into valid bars; returns them and a report that counts every repair.
from .market.reading import repair_bars as repair_bars

# A verified bundle on disk; its models load when first used.
from .models.bundle import ModelBundle as ModelBundle

# Evaluate by walk-forward, fit on all bars, publish a bundle.
from .operations.training import train as train

__version__: str
