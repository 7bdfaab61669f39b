"""Runs, registered models and trials, recorded in MLflow and the ledger."""

# Folder of the journals that were not sent yet.
from .journal import untracked as untracked

# Folders of the journals on disk, the oldest first; some may belong to runs that go on.
from .journal import waiting as waiting

# Where runs and registered bundles are kept.
from .mlflow_store import Store as Store

# Commit and whether tracked or new files differ from it; None outside a repository.
from .provenance import git_state as git_state

# Python and the packages that decide what a notebook says: name -> version.
from .provenance import package_versions as package_versions

# The bundle that an alias of a registered model points at, copied into root unless it is there already.
from .registry import fetch_bundle as fetch_bundle

# What a run has to tell. Without a journal, where tracking is off, every method does nothing.
from .tracking import Run as Run

# The settings of a command: it is tracked unless tracking says otherwise.
from .tracking import for_command as for_command

# Send what earlier runs left behind: those meant for store, or all to the default one.
from .tracking import send_waiting as send_waiting

# Run the block as a tracked run; yields the Run that it tells its results to.
from .tracking import tracked as tracked
