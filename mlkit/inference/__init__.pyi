"""Level 5: insights from bars and models: patterns, price forecasts and signals of a closed bar."""

# Folder whose current bundle is used for a market, its own or a pool's; None where nothing was trained.
from .bundle_roots import answering_root as answering_root

# The manifest of a bundle, if it was trained on a market; BundleError otherwise.
from .bundle_roots import check_market as check_market

# The published bundle that is used for a market, its own or a pool's; None where nothing was trained.
from .bundle_roots import current_bundle as current_bundle

# Identity of the CURRENT file of a folder, which changes with each publishing; None without one.
from .bundle_roots import current_stamp as current_stamp

# Path of a market's drift report: drift.json, or one for each symbol where a root serves several.
from .drift_note import drift_file as drift_file

# A note about bars that are stale at a given time; None if they are not.
from .freshness import bars_late as bars_late

# Age of the model at a bar, and the bars missing before it.
from .freshness import model_freshness as model_freshness

# Patterns, price forecasts and signals of one closed bar, as data, text, HTML and widget.
from .insight import Insight as Insight

# Turns bars into insights with the models of one bundle.
from .predictor import Predictor as Predictor

# The insight of the newest bar of a market, by its current bundle.
from .predictor import insights as insights

# Newest insight by market, each market followed live.
from .served_markets import Markets as Markets
