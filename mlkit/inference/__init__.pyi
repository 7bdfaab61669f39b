"""Level 5: where bars meet models."""

# The folder whose current bundle answers for a market; None where nothing was trained.
from .bundle_roots import answering_root as answering_root

# The published bundle that answers for a market, its own or a pool's.
from .bundle_roots import current_bundle as current_bundle

# What tells one CURRENT of a folder from another, by one look at the file; None without one.
from .bundle_roots import current_stamp as current_stamp

# Where the report of a market lies: drift.json, or one for each symbol where a root serves several.
from .drift_note import drift_file as drift_file

# Words about bars that are stale at now, where the newest closed at known; both naive UTC.
from .freshness import bars_late as bars_late

# What the bars alone tell: the age of the model at this bar, and what is missing before it.
from .freshness import model_freshness as model_freshness

# Everything mlkit says about one closed bar: patterns, prices, signals.
from .insight import Insight as Insight

# Turns bars into insights with the models of one bundle.
from .predictor import Predictor as Predictor

# The insight of the latest bar that load_bars knows, by the current bundle of its market.
from .predictor import insights as insights

# Answers by market; safe to ask from several threads, but for one market in one thread at a time.
from .served_markets import Markets as Markets
