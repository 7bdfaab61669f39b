"""Champion and challenger: when a model is trained again and which one answers."""

# The bundle that answers for a market, its own or a pool's; or None and the fault of a damaged one.
from .champions import champion_of as champion_of

# The published bundles that are still there, the current one first.
from .champions import published as published

# Make the bundle published before the current one current again, record that, and return it.
from .champions import roll_back as roll_back

# One round: decide, train a challenger, compare, publish it or keep the champion, tidy up.
from .retraining import retrain as retrain
