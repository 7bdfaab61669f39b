"""Honest machine-learning research on market bars: the public names."""

from .config import Settings as Settings
from .evaluation import CombinatorialPurged as CombinatorialPurged
from .evaluation import FinalSpan as FinalSpan
from .evaluation import Ledger as Ledger
from .evaluation import WalkForward as WalkForward
from .features import FeatureSet as FeatureSet
from .features import FeatureStream as FeatureStream
from .features import build_features as build_features
from .features import feature as feature
from .features import feature_catalogue as feature_catalogue
from .inference import Insight as Insight
from .inference import Predictor as Predictor
from .inference import insights as insights
from .inference.show import panel as panel
from .labels import forward_returns as forward_returns
from .labels import pattern_labels as pattern_labels
from .market import data_status as data_status
from .market import import_bars as import_bars
from .market import load_bars as load_bars
from .market import quality as quality
from .market import read_bars as read_bars
from .market import resample as resample
from .market import save_bars as save_bars
from .market import segments as segments
from .market import validate_bars as validate_bars
from .market.collect import fetch_bars as fetch_bars
from .market.reading import repair_bars as repair_bars
from .models.bundle import ModelBundle as ModelBundle
from .operations.training import train as train

__version__: str
