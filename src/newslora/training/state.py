"""What decides how training goes on, apart from tensors: counters, sums, generators, and what the run is made of."""

import base64
import hashlib
import json
import random
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from newslora.config import RunConfig
from newslora.data.prepare import Prepared
from newslora.data.streaming import Position
from newslora.training.engine import flat_settings
from newslora.training.progress import Row

# Settings that leave what was trained so far as it is.
FREE = frozenset(
    {
        *("train.trackers", "data.test", "data.test_split", "train.checkpoint_minutes", "train.checkpoint_steps"),
        *("train.greatest_loss", "train.on_divergence"),
    }
)


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Sums(_Stored):
    """Running sums over articles.

    Attributes:
        loss: Weighted cross-entropy.
        mass: Weights (the articles' number where classes are not weighed).
        correct: Articles classified right.
        articles: Articles.
        seconds: Time spent in steps.
    """

    loss: float = 0.0
    mass: float = 0.0
    correct: int = 0
    articles: int = 0
    seconds: float = 0.0

    def add(self, loss: float, mass: float, correct: int, articles: int) -> None:
        """Add one step."""
        self.loss += loss
        self.mass += mass
        self.correct += correct
        self.articles += articles

    @property
    def mean_loss(self) -> float:
        """Mean cross-entropy."""
        return self.loss / self.mass if self.mass else 0.0


class TrainingState(_Stored):
    """Where training stands.

    Attributes:
        step: Steps done since the start.
        epoch: Epochs trained and validated.
        done: Steps done of the epoch under way.
        lr: Learning rate of the last step.
        epoch_sums: Sums of the epoch under way.
        line_sums: Sums since the last line of ``steps.jsonl``.
        best: Row of the best epoch so far.
        stale: Epochs since the best one.
        skipped: Steps whose update was left out because they diverged.
        metrics: All rows of ``metrics.jsonl``.
        curve: All rows of ``steps.jsonl``.
        stream: Where a stream's reading stands, if rows are streamed.
    """

    step: int = 0
    epoch: int = 0
    done: int = 0
    lr: float = 0.0
    epoch_sums: Sums = Field(default_factory=Sums)
    line_sums: Sums = Field(default_factory=Sums)
    best: Row | None = None
    stale: int = 0
    skipped: int = 0
    metrics: list[Row] = Field(default_factory=list)
    curve: list[Row] = Field(default_factory=list)
    stream: Position | None = None

    def judge(self, row: Row, by: Literal["macro_f1", "loss"]) -> bool:
        """Enter an epoch's row and return whether it is the best so far; of equal ones the earlier stays."""
        better = self.best is None or (
            row["val_macro_f1"] > self.best["val_macro_f1"]
            if by == "macro_f1"
            else row["val_loss"] < self.best["val_loss"]
        )
        self.best, self.stale = (row, 0) if better else (self.best, self.stale + 1)
        self.metrics.append(row)
        return better


class Generators(_Stored):
    """State of a process's random generators."""

    of_python: list[Any]
    of_numpy: dict[str, Any]
    of_torch: str
    of_device: str | None

    @classmethod
    def capture(cls, device: torch.device) -> Self:
        """Read the generators of Python, NumPy, torch and the device."""
        # NumPy's state holds arrays; JSON takes them as lists and NumPy takes them back.
        numpy = json.loads(json.dumps(np.random.get_state(legacy=False), default=lambda array: array.tolist()))
        version, internal, gauss = random.getstate()
        own = None if device.type == "cpu" else _encode(torch.get_device_module(device).get_rng_state())
        return cls(
            of_python=[version, list(internal), gauss],
            of_numpy=numpy,
            of_torch=_encode(torch.get_rng_state()),
            of_device=own,
        )

    def restore(self, device: torch.device) -> None:
        """Set the generators to what was read."""
        version, internal, gauss = self.of_python
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(self.of_numpy)
        torch.set_rng_state(_decode(self.of_torch))
        if self.of_device is not None and device.type != "cpu":
            torch.get_device_module(device).set_rng_state(_decode(self.of_device))


class Identity(_Stored):
    """What a run is made of; two runs with one identity give one result.

    Attributes:
        settings: The settings under dotted names.
        data: SHA-256 over tokens and labels of the training and validation rows and the class names.
        processes: Processes that train together.
        backbone: Digest of the backbone's weights.
    """

    settings: dict[str, str | int | float | bool]
    data: str
    processes: int
    backbone: str | None

    @classmethod
    def of(cls, config: RunConfig, data: Prepared, processes: int, backbone: str | None = None) -> Self:
        """Take the identity of a run about to train."""
        return cls(settings=flat_settings(config), data=digest(data), processes=processes, backbone=backbone)

    def difference(self, earlier: "Identity") -> str | None:
        """Say what differs from an ``earlier`` identity in a way that would change the result, if anything does."""
        return self._setting_difference(earlier.settings) or self._other_difference(earlier)

    def _setting_difference(self, earlier: dict[str, str | int | float | bool]) -> str | None:
        # A setting that is newer than the checkpoint does nothing at its default.
        earlier = flat_settings(RunConfig()) | earlier
        streamed = bool(self.settings.get("data.streaming"))  # its epochs are parts of all steps
        for name, value in self.settings.items():
            before = earlier.get(name)
            # More epochs go on from where the run stands; fewer would have trained otherwise from the start.
            longer = name == "train.epochs" and isinstance(before, int) and int(value) >= before and not streamed
            if name not in FREE and value != before and not longer:
                return f"{name} is {value} but was {before}"
        return None

    def _other_difference(self, earlier: "Identity") -> str | None:
        if self.processes != earlier.processes:
            return f"{self.processes} processes train but {earlier.processes} did"
        if self.backbone != earlier.backbone:
            return "the backbone's weights have changed"
        return None if self.data == earlier.data else "the training or validation rows have changed"


class Document(_Stored):
    """Content of a checkpoint's ``state.json``: everything but tensors."""

    version: Literal[1] = 1
    identity: Identity
    state: TrainingState
    generators: list[Generators]
    scaler: dict[str, int | float] | None


def digest(data: Prepared) -> str:
    """Return a SHA-256 over everything of ``data`` that training reads."""
    sha = hashlib.sha256(json.dumps(data.names).encode())
    if data.kinds is not None:
        sha.update(data.kinds.tobytes())
    for split in (data.train, data.validation):
        for array in (split.encoded.ids, split.encoded.offsets, np.asarray(split.labels, dtype=np.int64)):
            sha.update(f"{array.dtype}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _encode(state: torch.Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode("ascii")


def _decode(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
