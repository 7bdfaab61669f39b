"""Train the pattern CNN on simulated bars that the rules label.

Every epoch draws new markets from ``pattern_factory``. A share of its windows is natural, a share holds rare patterns,
and a share is *mutated*: their last bars are changed a little and labelled again by the rules, which gives near misses
on both sides of every threshold. Windows with a large loss are drawn more often. In a further share prices move by half
a tick while the labels stay, so that the last digit of a price does not decide. Calibration and thresholds are set on
simulated bars at natural rates that training never used. Both standards are trained at once.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump_tensors
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mlkit.config import sha256_file, write_atomic
from mlkit.errors import BundleError, ConfigError
from mlkit.features import STANDARDS, Standard
from mlkit.market import load_bars
from mlkit.models.patterns import Float32Array, PatternCNN, PatternModel, folded, net_logits, save_cnn
from mlkit.operations.patterns.samples import N_OUTPUTS, BoolArray, natural_windows, training_windows
from mlkit.operations.patterns.thresholds import best_f1, calibrated, macro_f1

EpochCallback = Callable[[dict[str, float]], None]  # takes the row of the history of an epoch


@dataclass(frozen=True)
class Profile:
    """Size of a training run."""

    epochs: int
    windows: int  # trained on per epoch, all of them new
    pool: int  # windows drawn for each one trained on; those with the larger loss are preferred
    valid: int  # simulated bars at natural rates for the early stopping
    calibration: int  # the same for calibration and thresholds
    jitter: float = 0.125  # share of the windows whose prices move by half a tick while their labels stay
    batch: int = 256
    peak_lr: float = 2e-2
    weight_decay: float = 1e-4
    ema: float = 0.998  # decay per step of the averaged weights, which are the ones kept
    patience: int = 12  # epochs without a better validation macro-F1


PROFILES = {
    "tiny": Profile(epochs=2, windows=1_024, pool=2, valid=2_000, calibration=2_000, batch=128, ema=0.9),
    "smoke": Profile(epochs=6, windows=12_288, pool=2, valid=20_000, calibration=40_000, ema=0.98),
    "full": Profile(epochs=48, windows=81_920, pool=2, valid=50_000, calibration=600_000, patience=16),
}


@dataclass
class _State:
    """Everything that changes while training and that a checkpoint holds; all random numbers derive from the seed."""

    net: PatternCNN
    averaged: PatternCNN
    optimizer: torch.optim.AdamW
    best: dict[str, Tensor]
    history: list[dict[str, float]]

    @classmethod
    def start(cls, seed: int, profile: Profile) -> "_State":
        """A network with seeded weights and an empty history."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng(devices=[]):  # the layers draw from the global state before we overwrite them
            net, averaged = PatternCNN(N_OUTPUTS), PatternCNN(N_OUTPUTS)
        generator = torch.Generator().manual_seed(seed)
        for module in net.modules():
            if isinstance(module, torch.nn.Linear):  # the convolutions are linear too
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
        averaged.load_state_dict(net.state_dict())
        net, averaged = net.to(device), averaged.to(device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=profile.peak_lr, weight_decay=profile.weight_decay)
        return cls(net, averaged, optimizer, dict(averaged.state_dict()), [])

    def save(self, path: Path, key: str) -> None:
        """Write the checkpoint of the run that ``key`` identifies, atomically."""
        moments = {str(i): state for i, state in self.optimizer.state_dict()["state"].items()}
        parts = {"net": self.net.state_dict(), "averaged": self.averaged.state_dict(), "best": self.best} | moments
        named = {f"{part}/{name}": t for part, tensors in parts.items() for name, t in tensors.items()}
        # Cloned, since safetensors refuses tensors that share memory.
        tensors = {name: t.detach().cpu().clone() for name, t in named.items()}
        write_atomic(path, dump_tensors(tensors, metadata={"key": key, "history": json.dumps(self.history)}))

    def load(self, path: Path, key: str) -> None:
        """Restore a checkpoint; ConfigError if it is of another run, BundleError if it is damaged."""
        try:
            parts: dict[str, dict[str, Tensor]] = {}
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                if metadata["key"] != key:
                    raise ConfigError(f"{path}: checkpoint of another run; remove it or name another file")
                for full_name in file.keys():  # noqa: SIM118 - it is no mapping
                    part, name = full_name.split("/", 1)
                    parts.setdefault(part, {})[name] = file.get_tensor(full_name)
            self.history = json.loads(metadata["history"])
            self.net.load_state_dict(parts.pop("net"))
            self.averaged.load_state_dict(parts.pop("averaged"))
            self.best = parts.pop("best")
            moments = {int(i): tensors for i, tensors in parts.items()}
            self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise BundleError(f"{path}: damaged checkpoint ({type(error).__name__}); remove it") from None


def _learning_rate(step: int, steps: int, peak: float) -> float:
    """5 % of the steps up to the peak, then a half cosine down to 1 % of it."""
    warm = max(steps // 20, 1)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(steps - warm, 1))))


def _losses(net: PatternCNN, x: Float32Array, y: BoolArray) -> tuple[Any, Any]:
    """Log-odds and cross-entropy of every output, (n, 2 n_patterns) each."""
    z = net_logits(folded(net), x, 1024)
    return z, np.logaddexp(0.0, np.where(y, -z, z))


def _epoch_windows(
    state: _State, profile: Profile, epoch: int, seed: int
) -> tuple[Float32Array, BoolArray, np.random.Generator]:
    """The windows of an epoch with their labels, and the generator that shuffles them."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 2, epoch)))
    n_jitter = int(profile.jitter * profile.windows)
    n = profile.windows - n_jitter
    x, y = training_windows((seed, 0, epoch), n * profile.pool)
    if profile.pool > 1:
        # Drawn without replacement, a window's weight being its loss plus the mean loss (Efraimidis & Spirakis 2006).
        loss = _losses(state.averaged, x, y)[1].sum(axis=1)
        keys = rng.exponential(size=len(x)) / (loss + loss.mean() + 1e-12)
        rows = np.sort(np.argpartition(keys, n - 1)[:n])
        x, y = x[rows], y[rows]
    if n_jitter:  # never drawn by their loss, which is noise
        jittered = training_windows((seed, 1, epoch), n_jitter, natural=0.5, rare=0.5, jitter=True)
        x, y = np.concatenate([x, jittered[0]]), np.concatenate([y, jittered[1]])
    return x, y, rng


def _epoch(state: _State, profile: Profile, epoch: int, seed: int) -> float:
    """One pass over new windows; returns the mean training loss."""
    x, y, rng = _epoch_windows(state, profile, epoch, seed)
    order = rng.permutation(len(x))
    device = next(state.net.parameters()).device
    steps, losses = len(x) // profile.batch, 0.0
    state.net.train()
    for i in range(steps):
        rows = order[i * profile.batch : (i + 1) * profile.batch]
        step = epoch * steps + i
        for group in state.optimizer.param_groups:
            group["lr"] = _learning_rate(step, profile.epochs * steps, profile.peak_lr)
        target = torch.from_numpy(y[rows].astype(np.float32)).to(device)
        loss = binary_cross_entropy_with_logits(state.net.logits(torch.from_numpy(x[rows]).to(device)), target)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        decay = min(profile.ema, (step + 1) / (step + 10))
        with torch.no_grad():  # move the averaged weights a little towards the trained ones
            for mean, value in zip(state.averaged.state_dict().values(), state.net.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value, 1.0 - decay)
                else:
                    mean.copy_(value)
        losses += float(loss.detach())
    return losses / steps


def _validate(net: PatternCNN, x: Float32Array, y: BoolArray) -> tuple[float, float]:
    """Mean loss and macro-F1 (best threshold per pattern, patterns that occur) on natural windows."""
    z, loss = _losses(net, x, y)
    return float(loss.mean()), float(np.nanmean([best_f1(z[:, k], y[:, k])[0] for k in range(y.shape[1])]))


@contextmanager
def _deterministic() -> Iterator[None]:
    """Deterministic algorithms and one thread, which adds in one order; the caller's settings come back after."""
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)


def _finished(history: list[dict[str, float]], profile: Profile) -> bool:
    """All epochs done, or none of the last ``patience`` was the best."""
    scores = [row["valid_macro_f1"] for row in history]
    stale = len(scores) - 1 - int(np.argmax(scores)) if scores else 0
    return len(scores) >= profile.epochs or stale >= profile.patience


def train_patterns(
    *,
    standard: Standard = "classic",
    seed: int = 7,
    profile: str | Profile = "smoke",
    checkpoint: Path | None = None,
    progress: EpochCallback | None = None,
) -> tuple[PatternModel, pd.DataFrame]:
    """Train the pattern CNN on simulated bars, labelled by the rules.

    Parameters
    ----------
    standard : "classic" or "continuous", the half to return. Both are trained, because patterns that are rare under
        one are common under the other and share their conditions; one checkpoint serves both.
    seed : of the weights and of every simulated market
    profile : "smoke" (seconds), "full" (the shipped weights), or a `Profile`
    checkpoint : file written after every epoch; when it exists, training continues from it, and ends with the
        same bits as a run that was never interrupted
    progress : called after every epoch with its row of the history

    Returns the model, with the weights of the epoch with the highest valid_macro_f1 (over both standards), and the
    history: columns epoch, train_loss (over windows drawn for their loss), valid_loss (at natural rates),
    valid_macro_f1. Raises ConfigError for an unknown standard or profile, or a checkpoint of another run; BundleError
    for a damaged checkpoint.
    """
    if standard not in STANDARDS:
        raise ConfigError(f"standard: {standard!r} is unknown; use 'classic' or 'continuous'")
    (model,), history = _train((standard,), seed, profile, checkpoint, progress)
    return model, history


def ship_patterns(
    folder: Path,
    *,
    seed: int = 7,
    profile: str | Profile = "full",
    checkpoint: Path | None = None,
    progress: EpochCallback | None = None,
) -> list[Path]:
    """Train once and write the weights of both standards with the manifests that `pretrained` checks.

    A manifest also states the macro-F1 on simulated bars (of both standards together; the early stopping chose on it)
    and on the real daily bars that come with arch. No weight, calibration or threshold was fitted to real bars, but
    designs of the network were compared on them, so they are no pristine test set. With a seed, the bits are the same
    on every run on one kind of processor. Parameters and errors are those of `train_patterns`; returns the two files.
    """
    models, history = _train(STANDARDS, seed, profile, checkpoint, progress)
    paths = []
    for model in models:
        path = folder / f"{model.standard}.safetensors"
        save_cnn(path, model)
        manifest: dict[str, object] = {
            "file": path.name,
            "size": path.stat().st_size,
            "sha256": sha256_file(path),
            "command": model.meta.command,
            "epochs": len(history),
            "simulated_macro_f1": round(float(history["valid_macro_f1"].max()), 4),
        }
        for symbol in ("SP500", "NASDAQ"):
            score = macro_f1(model, load_bars(symbol, "1d").to_numpy())
            manifest[f"{symbol.lower()}_macro_f1"] = round(score, 4)
        write_atomic(path.with_suffix(".json"), (json.dumps(manifest, indent=2) + "\n").encode())
        paths.append(path)
    return paths


def epochs_of(profile: str | Profile) -> int:
    """Epochs of a profile, the most that a training reports; ConfigError for an unknown one."""
    return _named(profile)[1].epochs


def _named(profile: str | Profile) -> tuple[str, Profile]:
    """Name and sizes of a profile."""
    name, size = ("custom", profile) if isinstance(profile, Profile) else (profile, PROFILES.get(profile))
    if size is None:
        raise ConfigError(f"profile: {profile!r} is unknown; use one of {', '.join(PROFILES)}")
    return name, size


def _train(
    standards: Sequence[Standard],
    seed: int,
    profile: str | Profile,
    checkpoint: Path | None,
    progress: EpochCallback | None,
) -> tuple[list[PatternModel], pd.DataFrame]:
    """The calibrated models of the standards from one training, from the checkpoint where there is one; its history."""
    name, size = _named(profile)
    key = json.dumps({"seed": seed, "profile": asdict(size)}, sort_keys=True)
    with _deterministic():
        state = _State.start(seed, size)
        if checkpoint is not None and checkpoint.exists():
            state.load(checkpoint, key)
        x, y = natural_windows((seed, 3), size.valid)
        while not _finished(state.history, size):
            row = {"epoch": float(len(state.history))}
            row["train_loss"] = _epoch(state, size, len(state.history), seed)
            row["valid_loss"], row["valid_macro_f1"] = _validate(state.averaged, x, y)
            if all(row["valid_macro_f1"] > past["valid_macro_f1"] for past in state.history):
                state.best = {k: v.detach().clone() for k, v in state.averaged.state_dict().items()}
            state.history.append(row)
            if checkpoint is not None:
                state.save(checkpoint, key)
            if progress is not None:
                progress(row)
        state.averaged.load_state_dict(state.best)
        command = f"mlkit train --only patterns --profile {name} --seed {seed}"
        models = calibrated(state.averaged, standards, size.calibration, seed, command)
    return models, pd.DataFrame(state.history).astype({"epoch": "int64"})
