"""Folders that hold the bundles of a market or of a pool.

<models>/<symbol>-<timeframe>/       bundles trained on one market
<models>/pools/<name>-<timeframe>/   bundles trained on several markets
"""

from pathlib import Path

from mlkit.config import Settings
from mlkit.market import symbol_folder

POOLS = "pools"


def market_root(symbol: str, timeframe: str, settings: Settings) -> Path:
    """Folder of a market's own bundles; it need not exist."""
    return settings.models / f"{symbol_folder(symbol)}-{timeframe}"


def pool_root(name: str, timeframe: str, settings: Settings) -> Path:
    """Folder of a pool's bundles; it need not exist. ConfigError for a name that no symbol could have."""
    return settings.models / POOLS / f"{symbol_folder(name)}-{timeframe}"
