"""Train the pattern CNN on simulated bars alone; the rules are the teacher.

Every epoch draws new markets from ``pattern_factory``. A share of its windows is natural, a share holds rare
patterns, and a share is *mutated*: the last bars of a window are nudged, snapped to each other's prices or
rescaled, and judged again by the rules, which makes the near misses that a threshold is learned from. Windows
that the network finds hard are drawn more often. Natural rates come back in the calibration, which like the
thresholds is set on simulated bars that training never saw.

A share keeps its labels while its prices move by half a tick, which teaches what the rules would say without the
noise of the last digit. Both standards are taught at once. ``mlkit train --only patterns`` makes the weights that
mlkit ships.
"""

from __future__ import annotations

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
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mlkit.config import sha256_file, write_atomic
from mlkit.errors import BundleError, ConfigError
from mlkit.features import STANDARDS, Standard
from mlkit.market import load_bars
from mlkit.models.patterns import PatternCNN, PatternModel, folded, net_logits, save_cnn
from mlkit.operations.patterns.samples import N_OUTPUTS, natural_windows, training_windows
from mlkit.operations.patterns.thresholds import best_f1, calibrated, macro_f1

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Progress = Callable[[dict[str, float]], None]

PROGRAM = "mlkit train --only patterns"
SCORED = 1024  # windows in a forward pass that no weight learns from


@dataclass(frozen=True)
class Profile:
    """Size of a training run."""

    epochs: int
    windows: int  # trained on per epoch, all of them new
    pool: int  # drawn for each window trained on; the harder ones are kept
    valid: int  # simulated bars at natural rates for the early stopping
    calibration: int  # the same for calibration and thresholds
    jitter: float = 0.125  # share of the windows whose prices moved by half a tick while their labels did not
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
class _Run:
    """Everything that changes while training; a checkpoint is this, and nothing else is random."""

    net: PatternCNN
    averaged: PatternCNN
    optimizer: torch.optim.AdamW
    best: dict[str, Tensor]
    history: list[dict[str, float]]

    def tensors(self) -> dict[str, Tensor]:
        """All arrays by name."""
        named = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        named |= {f"averaged.{k}": v for k, v in self.averaged.state_dict().items()}
        named |= {f"best.{k}": v for k, v in self.best.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        return {k: v.detach().cpu().clone() for k, v in named.items()}

    def restore(self, tensors: dict[str, Tensor], history: list[dict[str, float]]) -> None:
        """Go back to a saved state."""
        part = {p: {k[len(p) :]: v for k, v in tensors.items() if k.startswith(p)} for p in _PREFIXES}
        self.net.load_state_dict(part["net."])
        self.averaged.load_state_dict(part["averaged."])
        self.best, self.history = part["best."], history
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in part["optimizer."].items():
            i, key = name.split(".", 1)
            state.setdefault(int(i), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})


_PREFIXES = ("net.", "averaged.", "best.", "optimizer.")


def _start(seed: int, profile: Profile, device: torch.device) -> _Run:
    """A network with seeded weights and an empty history."""
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
    return _Run(net, averaged, optimizer, dict(averaged.state_dict()), [])


def _rate(step: int, steps: int, peak: float) -> float:
    """Learning rate: 5 % of the steps up to the peak, then a half cosine down to 1 % of it."""
    warm = max(steps // 20, 1)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(steps - warm, 1))))


def _harder(
    net: PatternCNN, x: Float32Array, y: BoolArray, n: int, rng: np.random.Generator
) -> tuple[Float32Array, BoolArray]:
    """Draw ``n`` windows without replacement, a window's weight being its loss plus the mean loss."""
    z = net_logits(folded(net), x, SCORED)
    loss = np.logaddexp(0.0, np.where(y, -z, z)).sum(axis=1)
    keys = rng.exponential(size=len(x)) / (loss + loss.mean() + 1e-12)  # Efraimidis and Spirakis (2006)
    rows = np.sort(np.argpartition(keys, n - 1)[:n])
    return x[rows], y[rows]


def _epoch(run: _Run, profile: Profile, epoch: int, seed: int) -> float:
    """One pass over new windows; returns the mean training loss."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 2, epoch)))
    n_jitter = int(profile.jitter * profile.windows)
    n_sharp = profile.windows - n_jitter
    x, y = training_windows((seed, 0, epoch), n_sharp * profile.pool)
    if profile.pool > 1:
        x, y = _harder(run.averaged, x, y, n_sharp, rng)
    if n_jitter:  # never drawn by difficulty: theirs is noise
        jittered = training_windows((seed, 1, epoch), n_jitter, natural=0.5, rare=0.5, jitter=True)
        x, y = np.concatenate([x, jittered[0]]), np.concatenate([y, jittered[1]])
    order = rng.permutation(len(x))
    device = next(run.net.parameters()).device
    steps, losses = len(x) // profile.batch, 0.0
    run.net.train()
    for i in range(steps):
        rows = order[i * profile.batch : (i + 1) * profile.batch]
        step = epoch * steps + i
        for group in run.optimizer.param_groups:
            group["lr"] = _rate(step, profile.epochs * steps, profile.peak_lr)
        target = torch.from_numpy(y[rows].astype(np.float32)).to(device)
        loss = binary_cross_entropy_with_logits(run.net.logits(torch.from_numpy(x[rows]).to(device)), target)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        _average(run, min(profile.ema, (step + 1) / (step + 10)))
        losses += float(loss.detach())
    return losses / steps


def _average(run: _Run, decay: float) -> None:
    """Move the averaged weights a little towards the trained ones."""
    with torch.no_grad():
        for mean, value in zip(run.averaged.state_dict().values(), run.net.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1.0 - decay)
            else:
                mean.copy_(value)


def _validate(net: PatternCNN, x: Float32Array, y: BoolArray) -> tuple[float, float]:
    """Mean loss and macro-F1 (best threshold per pattern, patterns that occur) on natural windows."""
    z = net_logits(folded(net), x, SCORED)
    loss = float(np.logaddexp(0.0, np.where(y, -z, z)).mean())
    scores = [best_f1(z[:, k], y[:, k])[0] for k in range(y.shape[1])]
    return loss, float(np.nanmean(scores))


@contextmanager
def _deterministic() -> Iterator[None]:
    """Only deterministic algorithms and one thread inside, whose sums have one order; the caller's choice after."""
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)


def _save(path: Path, run: _Run, key: dict[str, Any]) -> None:
    """Write the checkpoint atomically."""
    note = {"key": json.dumps(key, sort_keys=True), "history": json.dumps(run.history)}
    write_atomic(path, dump_tensors(run.tensors(), metadata=note))


def _resume(path: Path, run: _Run, key: dict[str, Any]) -> None:
    """Restore the checkpoint, which must be of the same run."""
    try:
        data = path.read_bytes()
        note = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if note["key"] != json.dumps(key, sort_keys=True):
            raise ConfigError(f"{path}: checkpoint of another run; remove it or name another file")
        run.restore(parse_tensors(data), json.loads(note["history"]))
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise BundleError(f"{path}: damaged checkpoint ({type(error).__name__}); remove it") from None


def _over(history: list[dict[str, float]], profile: Profile) -> bool:
    """All epochs done, or none of the last ``patience`` was the best."""
    if len(history) >= profile.epochs:
        return True
    scores = [row["valid_macro_f1"] for row in history]
    return bool(scores) and len(scores) - 1 - int(np.argmax(scores)) >= profile.patience


def _fit(seed: int, size: Profile, checkpoint: Path | None, progress: Progress | None) -> _Run:
    """Train to the end, from the checkpoint where there is one; ``averaged`` then holds the best epoch."""
    key = {"seed": seed, "profile": asdict(size)}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = _start(seed, size, device)
    if checkpoint is not None and checkpoint.exists():
        _resume(checkpoint, run, key)
    x, y = natural_windows((seed, 3), size.valid)
    while not _over(run.history, size):
        row = {"epoch": float(len(run.history))}
        row["train_loss"] = _epoch(run, size, len(run.history), seed)
        row["valid_loss"], row["valid_macro_f1"] = _validate(run.averaged, x, y)
        if all(row["valid_macro_f1"] > past["valid_macro_f1"] for past in run.history):
            run.best = {k: v.detach().clone() for k, v in run.averaged.state_dict().items()}
        run.history.append(row)
        if checkpoint is not None:
            _save(checkpoint, run, key)
        if progress is not None:
            progress(row)
    run.averaged.load_state_dict(run.best)
    return run


def train_patterns(
    *,
    standard: Standard = "classic",
    seed: int = 7,
    profile: str | Profile = "smoke",
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> tuple[PatternModel, pd.DataFrame]:
    """Train the pattern CNN on simulated bars, labelled by the rules.

    Parameters
    ----------
    standard : "classic" or "continuous", the half to return; both are taught, because the rare patterns of
        one are common in the other and share their conditions. One checkpoint therefore serves both.
    seed : of the weights and of every simulated market.
    profile : "smoke" (seconds), "full" (the shipped weights), or a :class:`Profile`.
    checkpoint : file written after every epoch; when it exists, training goes on from it, and ends with the
        same bits as a run that was never interrupted.
    progress : called after every epoch with its row of the history.

    Returns
    -------
    The model, and the history: columns epoch, train_loss, valid_loss, valid_macro_f1 (over both standards).
    The weights are those of the epoch with the highest valid_macro_f1. train_loss is over windows drawn for
    their difficulty, so it lies above valid_loss, which is at natural rates.

    Raises
    ------
    ConfigError
        For an unknown standard or profile, or a checkpoint of another run.
    BundleError
        For a damaged checkpoint.
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
    progress: Progress | None = None,
) -> list[Path]:
    """Train once and write the weights of both standards with the manifests that :func:`pretrained` checks.

    A manifest also states the macro-F1 on simulated bars (of both standards together; the early stopping
    chose on it) and on the real daily bars that come with arch. No weight, calibration or threshold was
    fitted to real bars, but designs of the network were compared on them, so they are no pristine test set.

    Parameters and errors are those of :func:`train_patterns`. Returns the two weight files. With a seed, the
    bits are the same on every run on one kind of processor; another kind may round otherwise.
    """
    models, history = _train(STANDARDS, seed, profile, checkpoint, progress)
    return [_ship(folder, model, history) for model in models]


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
    progress: Progress | None,
) -> tuple[list[PatternModel], pd.DataFrame]:
    """The calibrated models of the standards, from one training, and its history."""
    name, size = _named(profile)
    with _deterministic():
        run = _fit(seed, size, checkpoint, progress)
        command = f"{PROGRAM} --profile {name} --seed {seed}"
        models = calibrated(run.averaged, standards, size.calibration, seed, command)
    return models, pd.DataFrame(run.history).astype({"epoch": "int64"})


def _ship(folder: Path, model: PatternModel, history: pd.DataFrame) -> Path:
    """Write weights and manifest of one standard."""
    path = folder / f"{model.standard}.safetensors"
    save_cnn(path, model)
    manifest = {
        "file": path.name,
        "size": path.stat().st_size,
        "sha256": sha256_file(path),
        "command": model.meta.command,
        "epochs": len(history),
        "simulated_macro_f1": round(float(history["valid_macro_f1"].max()), 4),
        **{
            f"{symbol.lower()}_macro_f1": round(macro_f1(model, load_bars(symbol, "1d").to_numpy()), 4)
            for symbol in ("SP500", "NASDAQ")
        },
    }
    write_atomic(path.with_suffix(".json"), (json.dumps(manifest, indent=2) + "\n").encode())
    return path
