"""Tags, parameters and datasets of a run that are known when it starts; names that MLflow and file systems accept."""

import getpass
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mlkit.config import project_root
from mlkit.evaluation import Source
from mlkit.operations.tracking.provenance import git_state

KEY = "mlkit.key"  # tag of a run: its name in the trial ledger
_DATASETS = 100  # logged of a run at most; the parameter data.sha256 covers all


def run_tags(kind: str, key: str) -> dict[str, str]:
    """Kind, key and user of a run, commit of the code and whether files differ from it, as tags."""
    git = git_state(project_root())
    tags = {KEY: key, "mlkit.kind": kind, "mlflow.source.name": f"mlkit {kind}", "mlflow.source.type": "LOCAL"}
    if git is not None:
        tags |= {"mlflow.source.git.commit": git["commit"], "mlkit.git.dirty": str(git["dirty"]).lower()}
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        tags["mlflow.user"] = f"uid {os.getuid()}"
    return tags


def data_parameters(sources: Sequence[Source]) -> dict[str, Any]:
    """Digest, markets and span of the data as parameters; for several histories, one digest over their digests."""
    if not sources:
        return {}
    digests = [source.sha256 for source in sources]
    one = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    markets = [f"{source.symbol}-{source.timeframe}" for source in sources]
    span = {"start": min(source.start for source in sources), "end": max(source.end for source in sources)}
    return {"data": {"sha256": one, "markets": ",".join(markets), **span}}


def datasets(sources: Sequence[Source]) -> list[dict[str, str]]:
    """Fields of MLflow's datasets: name, digest (MLflow stores 36 characters), and the source as JSON."""
    return [
        {
            "name": f"{source.symbol}-{source.timeframe}"[:500],
            "digest": source.sha256[:36],
            "source": json.dumps(asdict(source), sort_keys=True),
        }
        for source in sources[:_DATASETS]
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Parameters as MLflow stores them: text by name, the names of nested mappings joined by dots."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[key_name(f"{prefix}{name}")] = str(value)[:5000]
    return found


def key_name(name: Any) -> str:
    """A name that MLflow accepts for a metric, parameter or tag."""
    return re.sub(r"[^\w. :-]|\.\.+", "_", str(name))[:250].strip(". ") or "_"


def file_name(name: str) -> str:
    """A name as a plain file name of ASCII characters."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).lstrip(".-")[:100] or "unnamed"
