"""Runs fused into one: weights and heads matched on validation rows, or a mixture learned on a small table."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from newslora.config import RunConfig, change
from newslora.data.cleaning import Cleaner
from newslora.data.encoding import Encoded, encode
from newslora.data.labels import encode_labels, label_names
from newslora.data.prepare import prepare
from newslora.data.sources import read_table
from newslora.errors import NewsloraError
from newslora.evaluation.calibration import calibrate
from newslora.evaluation.card import write_card
from newslora.evaluation.environment import save_environment
from newslora.files import write_text, writing
from newslora.model.backbone import load_tokenizer
from newslora.model.classifier import NewsModel, predict_logits
from newslora.model.features import logits_and_features
from newslora.model.fusion import Fusion, Method, fused_model, label_groups, make_mixable, place, weigh
from newslora.model.memory import keep_memory
from newslora.model.warm_head import draw
from newslora.search.matching import WEIGHTS, Head, blend_heads, match_heads, search_weights
from newslora.training.loop import fit
from newslora.training.run_folder import RunFolder
from newslora.values import parse_value
from newslora.workflow import finish

ROWS = 1000  # validation rows that each choice of weights is measured on
FusionMethod = Literal["weighted", "svd", "ties", "dare", "learned"]
# A learned mixture trains a weight for each module and adapter: few numbers, on few rows.
_LEARNING: dict[str, Any] = {"train.epochs": 10, "train.lr": 1e-2, "train.batch_size": 16, "train.batch_tokens": None}
_LEARNING |= {"train.engine": "padded", "train.prefix_cache": False, "data.validation_share": 0.25}


@dataclass(frozen=True)
class Rows:
    """Labelled validation rows, labels counted as in the fused model."""

    encoded: Encoded
    labels: npt.NDArray[np.int64]


def fuse(
    runs: Sequence[Path],
    output: Path,
    method: FusionMethod = "weighted",
    *,
    data: str | None = None,
    overrides: Mapping[str, str] | None = None,
) -> RunFolder:
    """Combine the adapters of several runs of one backbone and write the result as a run folder.

    Args:
        runs: Two run folders or more, trained on the same or on different classes.
        output: The new run folder.
        method: As :meth:`newslora.model.fusion.Fusion.combine`; ``learned`` sets the
            output layer in closed form, then trains a weight for each module and adapter, on the rows of ``data``.
        data: Labelled table to choose on; the runs' own validation rows when not given.
        overrides: Settings of a learned mixture, by dotted name.

    Raises:
        NewsloraError: Fewer than two runs, runs that do not go together, or a table that cannot be read.
    """
    keep_memory()
    if len(runs) < 2:
        raise NewsloraError("newslora fuse: one run is no two; give two runs or more")
    folders = [RunFolder.open(Path(path)) for path in runs]
    for run in folders:
        if not run.adapter.is_dir():
            raise NewsloraError(f"{run.path}: has no adapter; give runs whose training has ended")
    if overrides and method != "learned":
        raise NewsloraError(f"--{next(iter(overrides))}: only a learned mixture is trained; give --method learned")
    fusion = Fusion([run.adapter for run in folders])
    if method == "learned":
        return _learn(folders, fusion, output, data, overrides or {})
    return _search(folders, fusion, output, method, data)


def _search(folders: list[RunFolder], fusion: Fusion, output: Path, method: Method, data: str | None) -> RunFolder:
    config = _config(folders, fusion, fusion.rank(method), data)
    seed = config.train.seed
    with _created(output, config) as run:
        rows = _draw(_rows(folders, fusion, data), seed)
        model = fused_model(fusion, config)
        weights = _fit(model, fusion, rows, method, seed)
        _write(run, model, folders[0], rows)
        story = {"method": method, "runs": [str(f.path) for f in folders], "weights": weights, "rows": len(rows.labels)}
        write_text(run.path / "fusion.json", json.dumps(story, indent=2) + "\n")
    return run


def _fit(model: NewsModel, fusion: Fusion, rows: Rows, method: Method, seed: int) -> tuple[float, ...]:
    groups = label_groups(fusion)

    def loss(weights: Sequence[float]) -> float:
        place(model, fusion.combine(weights, method, seed))
        return match_heads(predict_logits(model, rows.encoded), rows.labels, groups).loss

    weights = search_weights(loss, len(fusion.sources))
    place(model, fusion.combine(weights, method, seed))
    logits = predict_logits(model, rows.encoded)
    match = match_heads(logits, rows.labels, groups)
    weight, bias = _head(model)
    _set_head(model, (match.scales[:, None] * weight, match.scales * bias + match.shifts))
    return weights


def _learn(
    folders: list[RunFolder], fusion: Fusion, output: Path, table: str | None, overrides: Mapping[str, str]
) -> RunFolder:
    if table is None:
        raise NewsloraError("newslora fuse: a learned mixture needs rows to learn from; give --data FILE")
    config = _config(folders, fusion, fusion.rank("weighted"), table)
    given = {name: parse_value(text) for name, text in overrides.items()}
    config = change(config, _LEARNING | given, "newslora fuse")
    with _created(output, config) as run:
        data = prepare(config.data, load_tokenizer(str(folders[0].adapter)), config.train.seed)
        _check_names(table, data.names, fusion)
        fusion.names = data.names
        model = fused_model(fusion, config)
        place(model, fusion.combine((1.0,) * len(folders), "weighted", config.train.seed))
        make_mixable(model, fusion.ranks)
        rows = draw(np.array(data.train.labels), config.train.seed)
        _begin(model, Rows(data.train.encoded.take(rows), np.array(data.train.labels)[rows]), label_groups(fusion))
        fit(config, data, model, run, lambda _: None)
        write_text(run.path / "data_report.json", json.dumps(data.report, indent=2, ensure_ascii=False) + "\n")
        finish(run, data, model)
    return run


def _begin(model: NewsModel, rows: Rows, groups: npt.NDArray[np.int64]) -> None:
    """Set the output layer, and the one weight of all modules that leaves it the best features, before they part."""
    joined, found = _head(model), {}
    for weight in WEIGHTS[1:]:
        weigh(model, weight)
        _, features = logits_and_features(model, rows.encoded)
        found[weight] = blend_heads(features, rows.labels, groups, joined)
    best = min(found, key=lambda weight: found[weight][0])
    weigh(model, best)
    _set_head(model, found[best][1])


def _head(model: NewsModel) -> Head:
    return model.output_layer.weight.detach().cpu().numpy(), model.output_layer.bias.detach().cpu().numpy()


@torch.no_grad()
def _set_head(model: NewsModel, head: Head) -> None:
    model.output_layer.weight.copy_(torch.from_numpy(head[0]))
    model.output_layer.bias.copy_(torch.from_numpy(head[1]))


@contextmanager
def _created(output: Path, config: RunConfig) -> Iterator[RunFolder]:
    run = RunFolder.create(output, config)
    try:
        yield run
    except Exception:
        shutil.rmtree(run.path, ignore_errors=True)
        raise


def _check_names(table: str, names: tuple[str, ...], fusion: Fusion) -> None:
    if set(names) != set(fusion.names):
        raise NewsloraError(
            f"{table}: has the classes {', '.join(names)}, the runs together {', '.join(fusion.names)}; "
            "give rows of all classes, named as the runs name them"
        )


def _config(folders: list[RunFolder], fusion: Fusion, rank: int, data: str | None) -> RunConfig:
    """Return the first run's settings with LoRA on all modules that a run has it on, at the scale 1."""
    configs = [run.config() for run in folders]
    layers = [config.lora.layers for config in configs]
    whole = any(chosen is None for chosen in layers)
    changes: dict[str, Any] = {
        "lora.targets": tuple(dict.fromkeys(target for config in configs for target in config.lora.targets)),
        "lora.layers": None if whole else tuple(sorted({n for chosen in layers for n in chosen or ()})),
        **{"lora.r": rank, "lora.alpha": rank, "lora.scaling": "alpha/r", "lora.dropout": 0.0},
        **{"lora.ranks": {}, "lora.alphas": {}, "lora.init": "default", "lora.allocation": "none"},
        "model.head": "linear" if all(config.model.head == "linear" for config in configs) else "full",
        **{"distill.teacher": None, "distill.unlabelled": None, "data.validation": None, "data.test": None},
        **{"data.classes": None, "data.label": None, "data.text": None},
        "data.max_length": min(source.about.max_length for source in fusion.sources),
    }
    if data is not None:
        changes["data.train"] = data
    return change(configs[0], changes, "newslora fuse")


def _rows(folders: list[RunFolder], fusion: Fusion, data: str | None) -> Rows:
    if data is not None:
        return _read(folders[0], fusion, data)
    parts = []
    for run in folders:
        config = change(run.config(), {"data.test": None}, "newslora fuse")
        tokenizer = load_tokenizer(str(run.adapter))
        made = prepare(config.data, tokenizer, config.train.seed)
        names = [fusion.names.index(made.names[label]) for label in made.validation.labels]
        parts.append((made.validation.texts, names))
    texts = [text for part, _ in parts for text in part]
    return _encode(fusion, texts, [label for _, labels in parts for label in labels])


def _read(run: RunFolder, fusion: Fusion, data: str) -> Rows:
    table = read_table(data, run.config().data.model_copy(update={"classes": None, "label": None, "text": None}))
    own = label_names(table)
    _check_names(data, own, fusion)
    cleaner = Cleaner.load(run.adapter / "cleaner.json")
    labels = [fusion.names.index(own[label]) for label in encode_labels(table, own)]
    return _encode(fusion, [cleaner.repair(text) for text in table.texts], labels)


def _encode(fusion: Fusion, texts: list[str], labels: list[int]) -> Rows:
    length = min(source.about.max_length for source in fusion.sources)
    tokenizer = load_tokenizer(str(fusion.sources[0].folder))
    return Rows(encode(texts, tokenizer, length), np.array(labels))


def _draw(rows: Rows, seed: int) -> Rows:
    chosen = np.random.default_rng(seed).permutation(len(rows.labels))[:ROWS]
    return Rows(rows.encoded.take(chosen), rows.labels[chosen])


def _write(run: RunFolder, model: NewsModel, first: RunFolder, rows: Rows) -> None:
    with writing(run.adapter) as staged:
        staged.mkdir()
        Cleaner.load(first.adapter / "cleaner.json").save(staged / "cleaner.json")
        model.save_adapter(staged)
    calibrate(run.adapter, predict_logits(model, rows.encoded), rows.labels)
    save_environment(run)
    write_card(run)
