"""Champion and challenger: when a model is trained again and which one answers."""

# The bundle that answers for a market, its own or a pool's; else None, and what is wrong if one is damaged.
from .champions import champion_of as champion_of

# Be the only one who changes which bundle of root is current; RetrainingError at once where another one is.
from .champions import only_one as only_one

# The published bundles that are still there, the current one first.
from .champions import published as published

# Make the bundle published before the current one current again, write it down, and return it.
from .champions import roll_back as roll_back

# One round: decide, train a challenger, compare, publish it or keep the champion, tidy up.
from .retraining import retrain as retrain
