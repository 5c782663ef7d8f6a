"""Altered run folders, as in ``tests/inference/test_mutations.py``, by the thousand."""

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.conftest import NAMES, _make_backbone
from tests.inference.test_mutations import TEXTS, check, make_outside
from tests.soak.ledger import open_ledger

from newslora.config import RunConfig
from newslora.data.cleaning import Cleaner
from newslora.inference.classifier import NewsClassifier
from newslora.model.classifier import build_model
from newslora.training.run_folder import RunFolder


def make_run(place: Path) -> RunFolder:
    """Make a run folder as training leaves it."""
    settings = {"model": {"backbone": str(_make_backbone(place / "backbone"))}, "data": {"max_length": 12}}
    config = RunConfig.from_dict(settings)
    run = RunFolder.create(place / "run", config)
    model = build_model(config, NAMES).eval()
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    Cleaner().save(run.adapter / "cleaner.json")
    model.save_adapter(run.adapter)
    return run


class Runs:
    """A run, another beside it, and the right answers."""

    def __init__(self, place: Path) -> None:
        self.place, self.run = place, make_run(place)
        (place / "outside").mkdir()
        self.outside = make_outside(self.run, place / "outside")
        self.right: np.ndarray = NewsClassifier.load(self.run.path).predict_proba(TEXTS)

    def trial(self, number: int, draw: random.Random) -> dict[str, Any]:
        told, result = check(self.run, self.outside, self.right, self.place, number)
        ok = result in ("refused", "right")
        return {"ok": ok, "kind": result if ok else "wrong", "what": f"{told}: {result}"}


def main() -> int:
    ledger, _ = open_ledger("runs", 1000)
    with tempfile.TemporaryDirectory() as place:
        return ledger.run(Runs(Path(place)).trial)


if __name__ == "__main__":
    sys.exit(main())
