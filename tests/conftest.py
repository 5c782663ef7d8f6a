"""A small run folder with a real model in it: random weights, a word tokenizer, a cleaner, metrics."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from tests.newsroom import make_backbone
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from newslora.config import RunConfig
from newslora.data.cleaning import Cleaner
from newslora.model.classifier import build_model
from newslora.training.run_folder import RunFolder

# Two workers share two cores, and so do the processes that they start: more threads only get into each other's way.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As the command line has it: no process loads a compiler that none uses.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

# The same examples every time, and no verdict on how busy the machine is.
settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")
# For mutation testing, which asks whether a test fails and not what the least example is (CONTRIBUTING.md).
settings.register_profile("mutation", settings.get_profile("house"), phases=[Phase.explicit, Phase.generate])

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("World", "Sports", "Business", "Sci/Tech")
WORDS = [
    "the",
    "a",
    "on",
    "in",
    "of",
    "for",
    "and",
    "wins",
    "loses",
    "match",
    "market",
    "shares",
    "rise",
    "fall",
    "troops",
    "talks",
    "probe",
    "comet",
    "chip",
    "coach",
]


def _make_backbone(folder: Path) -> Path:
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=words, **specials).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes))
    for parameter in model.parameters():  # away from the all but linear start
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A real browser for the pages; without one the test is skipped, or fails in CI, which has one."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        fail = pytest.fail if os.environ.get("CI") else pytest.skip
        fail("no Chromium on the path; Debian has it as the package chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Encoded articles are kept with the tests' other files, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEWSLORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run folder as training leaves it, shared: what writes into it works on a copy."""
    backbone = _make_backbone(tmp_path_factory.mktemp("backbone"))
    settings = {"model": {"backbone": str(backbone)}, "data": {"max_length": 12}}
    config = RunConfig.from_dict(settings)
    run = RunFolder.create(tmp_path_factory.mktemp("runs") / "small", config)
    model = build_model(config, NAMES).eval()
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    Cleaner().save(run.adapter / "cleaner.json")
    model.save_adapter(run.adapter)
    row = {"epoch": 1, "step": 9, "train_loss": 1.4, "train_accuracy": 0.3, "val_loss": 1.3, "val_accuracy": 0.4}
    run.metrics_file.write_text(json.dumps(row | {"val_macro_f1": 0.38, "lr": 1e-3}) + "\n")
    return run


@pytest.fixture(scope="session")
def news_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small backbone that knows the words of the invented articles in ``tests/newsroom.py``."""
    return make_backbone(tmp_path_factory.mktemp("news-backbone"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount, and later enlarge, a disk of so many KiB; only root may."""
    place = tmp_path / "disk"
    place.mkdir()

    def size(kib: int) -> Path:
        again = ["-o", "remount"] if place.is_mount() else []
        mount = ["mount", "-t", "tmpfs", *again, "-o", f"size={kib}k", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("a small disk cannot be mounted here")
        return place

    yield size
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)
