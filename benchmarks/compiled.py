"""What torch.compile brings on a processor, and after how many steps it has paid for itself.

Run on a quiet machine with a C++ compiler:

    python benchmarks/compiled.py

One batch of equally long articles of random tokens goes through MiniLM, eagerly and compiled in turn: transformers'
model with peft's LoRA (rank 8 on query and value, no dropout) for a forward and backward pass, and transformers' model
for a forward pass, also with weights frozen into the graph. Each is compiled for this one length, the best case: real
batches have lengths of their own. newslora's forward and backward pass on such a batch takes its turn beside the first.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

ARTICLES = 32
REPEATS = 15


def stock(adapted: bool) -> Any:
    """Return transformers' classifier on MiniLM, with peft's LoRA or without."""
    import peft
    from transformers import AutoModelForSequenceClassification

    from newslora.model import backbone

    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with backbone.quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(backbone.locate("minilm"), num_labels=4, **none)
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    return peft.get_peft_model(model, lora).train() if adapted else model.eval()


def step(model: Any, call: Any, batch: dict[str, Any]) -> Callable[[], object]:
    """Return a forward pass, and a backward one where something is trained."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]

    def run() -> object:
        if model.training:
            return torch.autograd.grad(call(**batch).loss, trained)
        with torch.no_grad():
            return call(**batch).logits

    return run


def own_step(length: int) -> Callable[[], object]:
    """Return newslora's forward and backward pass on such a batch."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    from newslora.config import RunConfig
    from newslora.data.batches import make_batch
    from newslora.data.encoding import Encoded
    from newslora.model.classifier import build_model

    model = build_model(RunConfig.from_dict({"model": {"head": "full"}, "lora": {"r": 8, "alpha": 16}}), tuple("abcd"))
    ids = np.random.default_rng(0).integers(1000, 20000, ARTICLES * length).astype(np.int32)
    encoded = Encoded(ids, np.arange(0, len(ids) + 1, length))
    batch = make_batch(encoded, np.arange(ARTICLES), [row % 4 for row in range(ARTICLES)])
    model.train()
    return lambda: torch.autograd.grad(cross_entropy(model(batch), batch.labels), model.trainable_parameters())


def measured(runs: list[Callable[[], object]]) -> list[float]:
    """Return each run's median seconds; they take turns."""
    seconds: list[list[float]] = [[] for _ in runs]
    for number in range(REPEATS + 2):
        for run, taken in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            if number >= 2:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def rows(length: int) -> Iterator[tuple[str, float, list[float]]]:
    """Yield what is run, the first compiled step's seconds, and the medians: eager, compiled, and newslora's if any."""
    import torch
    import torch._inductor.config as inductor

    ids = torch.randint(1000, 20000, (ARTICLES, length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(ARTICLES) % 4}
    ways = {"forward and backward": (True, False), "forward": (False, False), "forward, frozen": (False, True)}
    for name, (adapted, frozen) in ways.items():
        torch._dynamo.reset()
        inductor.freezing, inductor.force_disable_caches = frozen, True
        model = stock(adapted)
        eager, compiled = step(model, model, batch), step(model, torch.compile(model), batch)
        start = time.perf_counter()
        compiled()
        first = time.perf_counter() - start
        yield name, first, measured([eager, compiled, *([own_step(length)] if adapted else [])])


def main() -> None:
    """Print a Markdown table."""
    from newslora.model.memory import keep_memory

    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=52, help="tokens of each of the batch's 32 articles")
    length = parser.parse_args().length
    print("| pass | eager, ms | compiled, ms | newslora, ms | first compiled step, s | paid back after steps |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    for name, first, (eager, compiled, *own) in rows(length):
        saved = eager - compiled
        paid = f"{first / saved:,.0f}" if saved > 0 else "never"
        times = " | ".join(f"{1000 * seconds:.0f}" for seconds in (eager, compiled, *own)) + (" | " if not own else "")
        print(f"| {name} | {times} | {first:.1f} | {paid} |", flush=True)


if __name__ == "__main__":
    main()
