from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.model.conftest import ragged_articles, random_model
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from newslora.data.batches import make_batch
from newslora.model import products
from newslora.model.backbone import load_config
from newslora.model.prefix import build_prefix
from newslora.model.saving import savings


def test_the_share_of_work_is_what_is_counted(
    tiny_backbone: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long articles, so that what runs on one row an article alone weighs little, and a rank of 1."""
    monkeypatch.setattr(products, "prefers_onednn", lambda: False)  # PyTorch's counter knows the stock products alone
    backbone, rows = tiny_backbone("bert"), ragged_articles([120] * 8)
    lora = {"r": 1, "targets": "query,value"}
    told = savings(load_config(str(backbone)), 3, "bert", ("query", "value"), "linear", 1)

    def work(first: int) -> float:
        model = random_model(backbone, model={"head": "linear"}, lora=lora | {"layers": told[first].layers}).train()
        assert model.counts().trainable == told[first].trainable
        batch = make_batch(rows, list(range(8)), [0, 1, 2, 0, 1, 2, 0, 1], build_prefix(model, rows))
        with FlopCounterMode(display=False) as counter:
            cross_entropy(model(batch), torch.as_tensor(batch.labels)).backward()
        counts = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
        return sum(counts.get(op, 0) for op in ("aten.mm", "aten.addmm"))

    whole = work(0)
    assert [saving.later_epochs for saving in told[1:]] == pytest.approx(
        [work(first) / whole for first in range(1, len(told))], abs=0.06
    )
    assert told[0].first_epoch == told[0].later_epochs == 1
    assert all(saving.first_epoch > saving.later_epochs for saving in told[1:])
    assert told[0].bytes_per_token == 0
    assert told[1].bytes_per_token == 2 * load_config(str(backbone)).hidden_size


def test_a_family_without_a_packed_pass_has_none(tiny_backbone: Callable[[str], Path]) -> None:
    assert savings(load_config(str(tiny_backbone("mpnet"))), 3, "mpnet", ("query",), "linear", 1) == []
