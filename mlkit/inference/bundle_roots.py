"""The folder of models that is used for a market.

    <models>/<symbol>-<timeframe>/       a market's own bundles
    <models>/pools/<name>-<timeframe>/   bundles trained on several markets

A market's own bundle comes first. Without one, a pool of its timeframe whose current bundle names the market: the one
whose training ended last, of several the first by name. A market that no pool names has no price model, because no
metrics were measured on it; `Predictor` accepts any bundle.
"""

import logging
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mlkit.config import Settings
from mlkit.errors import BundleError
from mlkit.models.bundle import CURRENT, POOLS, Manifest, market_root, read_current, read_manifest

if TYPE_CHECKING:
    from mlkit.models.bundle import ModelBundle

Stamp: TypeAlias = tuple[int, int, int]
_warn_once = cache(logging.getLogger("mlkit").warning)


def answering_root(symbol: str, timeframe: str, settings: Settings) -> Path | None:
    """The folder whose current bundle is used for a market; None where nothing was trained.

    Raises BundleError for a damaged pool where neither the market nor another pool has a bundle for it.
    """
    own = market_root(symbol, timeframe, settings)
    if current_stamp(own) is not None:
        return own
    found, faults = [], []
    for root in sorted((settings.models / POOLS).glob(f"*-{timeframe}")):
        stamp = current_stamp(root)
        try:
            symbols, end = (frozenset[str](), "") if stamp is None else _pooled(root, stamp)
        except BundleError as error:
            # It may hold other markets only. Where no other bundle is found it may be the market's, so it is an error.
            faults.append(error)
            _warn_once("pool %s answers for no market: %s", root, str(error))
            continue
        if symbol in symbols:
            found.append((end, root))
    if not found and faults:
        raise faults[0]
    return max(found, key=lambda one: one[0])[1] if found else None  # the first of equals


def current_stamp(root: Path) -> Stamp | None:
    """Identity of the ``CURRENT`` file of a folder, which changes with each publishing; None without one."""
    try:
        status = (root / CURRENT).stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=256)
def _pooled(root: Path, stamp: Stamp) -> tuple[frozenset[str], str]:
    """Symbols of a pool's current bundle and the end of its training; read once for each publishing."""
    manifest = read_manifest(root / read_current(root)[0])
    return frozenset(manifest.pool), manifest.training_span.end


def current_bundle(symbol: str, timeframe: str, settings: Settings) -> "ModelBundle | None":
    """The bundle of `answering_root`; None where nothing was trained, BundleError when damaged."""
    from mlkit.models.bundle import ModelBundle

    root = answering_root(symbol, timeframe, settings)
    if root is None:
        return None
    bundle = ModelBundle.open(root)
    check_market(bundle.manifest, symbol, timeframe, root)
    return bundle


def check_market(manifest: Manifest, symbol: str, timeframe: str, root: Path) -> Manifest:
    """The manifest, if its bundle was trained on this market; BundleError for one that was copied from another."""
    if symbol not in manifest.symbols or timeframe != manifest.timeframe:
        raise BundleError(
            f"{root}: holds a bundle of {manifest.symbol} {manifest.timeframe}, not of {symbol} {timeframe}; move it "
            f"to the folder of its market and run mlkit train --symbol {symbol} --timeframe {timeframe}"
        )
    return manifest
