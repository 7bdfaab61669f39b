"""Runs, registered models and trials, recorded in MLflow and the ledger."""

# Commit of the code, and whether files differ from it; None outside a repository.
from .provenance import git_state as git_state

# Versions of Python and of the packages that a notebook's output depends on.
from .provenance import package_versions as package_versions

# Copy the bundle that an alias of a registered model points at, and check it.
from .registry import fetch_bundle as fetch_bundle

# A run in MLflow that results are logged to; does nothing where tracking is off.
from .tracking import TrackedRun as TrackedRun

# The settings of a command, which is tracked unless the setting tracking is False.
from .tracking import for_command as for_command

# Run a block as a run in MLflow; yields the TrackedRun.
from .tracking import tracked as tracked
