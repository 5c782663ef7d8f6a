"""Run as a program: read what standard input asks for through newslora, one JSON answer a line.

``huggingface_hub`` takes the hub's address, the cache's folder and offline mode from the environment at import, so
only a process of its own reads from the loopback hub.
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from newslora import NewsloraError
from newslora.config import DataConfig, RunConfig
from newslora.data.sources import read_table


def read_model(adapter: str, **model: str) -> dict[str, Any]:
    """Build a classifier on a backbone and save it; tell what its weights are and what is noted of them."""
    from newslora.model.backbone import load_tokenizer
    from newslora.model.classifier import build_model

    tokenizer = load_tokenizer(model["backbone"], model.get("revision"))
    built = build_model(RunConfig.from_dict({"model": model, "data": {"max_length": 16}}), ("a", "b"))
    built.save_adapter(Path(adapter))
    weights = {name.replace(".base_layer", ""): value for name, value in built.plain.named_parameters()}
    digests = {name: hashlib.sha256(value.detach().numpy().tobytes()).hexdigest() for name, value in weights.items()}
    noted = json.loads((Path(adapter) / "newslora.json").read_text(encoding="utf-8"))
    return {"ids": tokenizer("cab bad ab")["input_ids"], "weights": digests, "noted": noted}


def read_rows(source: str, split: str, **settings: str) -> dict[str, Any]:
    """Tell what a table holds."""
    return vars(read_table(source, DataConfig.model_validate(settings), split=split))


def answer(what: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Read one thing; an error that is not the product's own ends the program."""
    begun = time.monotonic()
    try:
        return {"value": {"model": read_model, "rows": read_rows}[what](**arguments)}
    except NewsloraError as error:
        return {"error": str(error), "seconds": time.monotonic() - begun}


if __name__ == "__main__":
    for query in json.load(sys.stdin):
        print(json.dumps(answer(*query)))
