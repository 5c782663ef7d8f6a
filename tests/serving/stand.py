"""A newsstand: sixteen small runs of every kind over one tiny RoBERTa, and a server in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tests.newsroom import articles, make_tokenizer
from transformers import RobertaConfig, RobertaModel

from newslora.config import RunConfig
from newslora.data.cleaning import Cleaner
from newslora.model.backbone import quiet_transformers
from newslora.model.classifier import build_model
from newslora.model.temperature import save_calibration

TEXTS = [text for _, text in articles(40, seed=3)]
KINDS: list[dict[str, Any]] = [
    {"lora": {"targets": ("query", "value"), "r": 4}, "model": {"head": "full"}},
    {"lora": {"targets": ("all-linear",), "r": 8}, "model": {"head": "linear"}},
    {"lora": {"targets": ("intermediate", "output"), "r": 2, "layers": (1,)}, "model": {"head": "lora"}},
    {
        "lora": {"targets": ("attention",), "r": 3, "scaling": "rslora", "ranks": {"value": 6}},
        "model": {"head": "lora"},
    },
]


def make_roberta(folder: Path, seed: int = 0) -> Path:
    """Write a RoBERTa with random weights and its tokenizer."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(seed)
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=160, pad_token_id=0, **sizes)
    with quiet_transformers():
        model = RobertaModel(config, add_pooling_layer=False)
        for name, parameter in model.named_parameters():  # away from the all but linear start
            torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.2)
        model.save_pretrained(folder)
    return folder


def make_run(folder: Path, backbone: Path, names: Sequence[str], seed: int, **sections: Any) -> Path:
    """Write the adapter of a run whose every trainable parameter is random."""
    sections = {**sections, "model": {"backbone": str(backbone)} | sections.get("model", {})}
    sections |= {"train": {"seed": seed}, "data": {"max_length": 24 + seed}}
    model = build_model(RunConfig.from_dict(sections), tuple(names)).eval()
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.normal_(std=0.3)
    (folder / "adapter").mkdir(parents=True)
    Cleaner().save(folder / "adapter" / "cleaner.json")
    model.save_adapter(folder / "adapter")
    if seed % 2:
        save_calibration(folder / "adapter", 1.0 + seed / 8, {})
    return folder


def make_stand(folder: Path, runs: int = 16) -> list[Path]:
    """Write a backbone and runs on it whose labels, ranks, targets and heads differ."""
    backbone = make_roberta(folder / "backbone")
    names = [[f"topic {seed}-{label}" for label in range(2 + seed % 5)] for seed in range(runs)]
    return [
        make_run(folder / f"desk-{seed}", backbone, names[seed], seed, **KINDS[seed % len(KINDS)])
        for seed in range(runs)
    ]


@dataclass
class Server:
    """A server's process.

    Attributes:
        process: The process.
        url: Its address.
        lines: What it logged, as parsed JSON.
    """

    process: subprocess.Popen[str]
    url: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)

    def end(self) -> int:
        """Ask it to end and return its status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])


@contextmanager
def serving(*words: object, **environment: str) -> Iterator[Server]:
    """Run ``newslora serve`` with these words in a process of its own, on a free port."""
    command = [sys.executable, "-m", "newslora.cli.main", "serve", *map(str, words), "--port", "0"]
    settings = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=settings)
    server, ready = Server(process), threading.Event()

    def listen() -> None:
        for line in process.stderr or ():
            entry = json.loads(line)
            server.lines.append(entry)
            if entry["event"] == "serving":
                server.url = f"http://{entry['host']}:{entry['port']}"
                ready.set()

    reader = threading.Thread(target=listen, daemon=True)
    reader.start()
    try:
        assert ready.wait(60), server.lines
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join(10)
        if process.stderr is not None:
            process.stderr.close()
