"""The run's README: a model card that the Hugging Face hub reads, made of what stands in the run folder."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from newslora.config import RunConfig
from newslora.errors import NewsloraError
from newslora.evaluation.set_card import describe_sets
from newslora.files import write_text
from newslora.training.run_folder import RunFolder

# What the packaged alias holds, by its name on the hub.
_HUB_NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(run: RunFolder, data_report: Mapping[str, Any] | None = None) -> Path:
    """Write ``README.md`` with hub metadata: what was trained, on what, how well it does, and how to use and repeat it.

    Args:
        run: A trained run; its ``evaluation.json`` is told of where there is one.
        data_report: What became of the training rows, as :func:`newslora.data.prepare.prepare` reports it; from the
            run's ``data_report.json`` when not given.

    Returns:
        The card's path.
    """
    config = run.config()
    results = read_record(run.evaluation_file)
    report = read_record(run.path / "data_report.json") if data_report is None else data_report
    parts = [
        f"---\n{_metadata(run, config, results).to_yaml()}\n---",
        f"# {run.path.resolve().name}",
        _trained(config, results),
        _data(config, report),
        _training(run, config),
        _results(results),
        _limits(config),
        _use(run),
        _repeat(),
    ]
    write_text(run.card, "\n\n".join(part for part in parts if part) + "\n")
    return run.card


def read_record(file: Path) -> dict[str, Any]:
    """Return a JSON object that stands in a run folder, an empty one where the file is missing.

    Raises:
        NewsloraError: The file is damaged.
    """
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}
    except (ValueError, TypeError, RecursionError) as error:
        raise NewsloraError(f"{file}: holds no JSON object; delete it or repeat the run") from error


def _metadata(run: RunFolder, config: RunConfig, results: dict[str, Any]) -> ModelCardData:
    return ModelCardData(
        library_name="peft",
        base_model=_base_model(config),
        datasets=[config.data.train] if _on_hub(config.data.train) else None,
        tags=["newslora", "lora", "news", "text-classification"],
        pipeline_tag="text-classification",
        metrics=["accuracy", "f1"],
        model_name=run.path.resolve().name,
        eval_results=_eval_results(results) or None,
    )


def _eval_results(results: dict[str, Any]) -> list[EvalResult]:
    if not results:
        return []
    source = results["source"]
    shown = source if _on_hub(source) else Path(source).name
    title = "Subset accuracy" if "task" in results else "Accuracy"
    figures = (("accuracy", "accuracy", title), ("f1", "macro_f1", "Macro F1"))
    return [
        EvalResult(
            task_type="text-classification",
            task_name="Text classification",
            dataset_type=shown,
            dataset_name=shown,
            metric_type=kind,
            metric_name=title,
            metric_value=results[key],
        )
        for kind, key, title in figures
    ]


def _base_model(config: RunConfig) -> str | None:
    backbone = config.model.backbone
    return _HUB_NAMES.get(backbone, backbone if not Path(backbone).exists() else None)


def _on_hub(source: str) -> bool:
    return bool(_HUB_ID.fullmatch(source)) and not Path(source).suffix and not Path(source).exists()


def _trained(config: RunConfig, results: dict[str, Any]) -> str:
    lora, backbone = config.lora, _base_model(config) or Path(config.model.backbone).name
    layers = "all layers" if lora.layers is None else f"layers {', '.join(map(str, lora.layers))}"
    bits = "" if config.model.quantization == "none" else f" in {config.model.quantization}"
    text = (
        f"A news classifier: `{backbone}`, frozen{bits}, with LoRA (r = {lora.r}, alpha = {lora.alpha:g}, scaling "
        f"{lora.scaling}) on {', '.join(lora.targets)} of {layers} and a `{config.model.head}` classification head."
    )
    if results:
        text += (
            f" {results['trainable_parameters']:,} of {results['total_parameters']:,} parameters are trained "
            f"(budget {lora.budget:,})."
        )
        text += f"\n\nClasses: {', '.join(results['labels'])}."
    return text


def _data(config: RunConfig, report: Mapping[str, Any]) -> str:
    data = config.data
    validation = data.validation or f"{data.validation_share:.1%} of the training rows, set aside by seed"
    lines = [
        "## Data",
        "",
        f"- Training table: `{data.train}`",
        f"- Validation: {validation}",
        f"- Test: {f'`{data.test}`, read once after training' if data.test else 'none'}",
        f"- Text: repaired (entities, markup, URLs, white space), at most {data.max_length} tokens",
    ]
    return "\n".join([*lines, *_story(report)])


def _story(report: Mapping[str, Any]) -> list[str]:
    """Tell in counts what became of the rows; a report's examples are rows of the data and stay out of the card."""
    if not report:
        return []
    table, rows = report["tables"]["train"], report["rows"]
    dropped = {name: part["rows"] for name, part in report["filters"].items() if part["rows"]}
    leaks = {sides: part["rows"] for sides, part in report["leaks"].items()}
    return [
        f"- Training rows: {table['rows']:,} read, {table['repaired']:,} of them repaired",
        f"- Filtered from training rows: {_listed(dropped)}",
        f"- Rows used: {_listed(rows)}",
        f"- Rows that also stand on another side: {_listed(leaks)}",
        *(
            ["- These are the first rows of a stream; the others were read while training"]
            if "streamed" in report
            else []
        ),
    ]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()) or "none"


def _training(run: RunFolder, config: RunConfig) -> str:
    train, epochs = config.train, run.metrics()
    batch = f"{train.batch_tokens:,} tokens" if train.batch_tokens else f"{train.batch_size} articles"
    optimizer = train.optimizer.replace("adamw", "AdamW")
    lines = [
        "## Training",
        "",
        f"{optimizer}, learning rate {train.lr:g} ({train.schedule}), batches of {batch}, seed {train.seed}.",
        "",
        "| epoch | training loss | validation loss | validation accuracy | validation macro F1 |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in epochs:
        figures = (row["train_loss"], row["val_loss"], row["val_accuracy"], row["val_macro_f1"])
        lines.append(f"| {row['epoch']} | " + " | ".join(f"{figure:.4f}" for figure in figures) + " |")
    picture = "![Training and validation loss and accuracy](figures/validation_loss.png)"
    return "\n".join([*lines, "", picture] if (run.figures / "validation_loss.png").exists() else lines)


def _results(results: dict[str, Any]) -> str:
    if not results:
        return ""
    if "task" in results:
        return describe_sets(results, _class_table(results))
    accuracy, f1 = results["interval_95"]["accuracy"], results["interval_95"]["macro_f1"]
    lines = [
        "## Results",
        "",
        f"On {results['n']:,} rows of `{results['source']}`:",
        "",
        "| figure | value | 95% interval |",
        "|---|---:|---:|",
        f"| accuracy | {results['accuracy']:.4f} | {accuracy[0]:.4f} to {accuracy[1]:.4f} |",
        f"| macro F1 | {results['macro_f1']:.4f} | {f1[0]:.4f} to {f1[1]:.4f} |",
        f"| log-loss | {results['log_loss']:.4f} | |",
        f"| calibration error (15 bins) | {results['ece']:.4f} | |",
        "",
        f"Interval: {results['interval_method']}; it covers the choice of test rows, not of the training seed. "
        f"Probabilities are at temperature {results['temperature']:.3f}, fitted on validation rows.",
        "",
        *_class_table(results),
        "",
        "![Confusion matrix](figures/confusion_matrix.png)",
    ]
    return "\n".join(lines)


def _class_table(results: dict[str, Any]) -> list[str]:
    head = ["| class | precision | recall | F1 | rows |", "|---|---:|---:|---:|---:|"]
    for name, row in results["per_class"].items():
        figures = " | ".join(f"{row[key]:.4f}" for key in ("precision", "recall", "f1"))
        head.append(f"| {name.replace('|', '/')} | {figures} | {row['support']:,} |")
    return head


def _limits(config: RunConfig) -> str:
    several = "An article gets each label whose probability reaches the label's threshold, and perhaps none."
    one = "Every article gets one class, also one that belongs to none of them; a low score is the only sign of that."
    return (
        f"## Limits\n\n{several if config.data.multi_label else one} Figures hold for articles like the test rows: "
        "other years, regions, languages or styles need their own test. Words after the first "
        f"{config.data.max_length} tokens are not read. One run with one seed says nothing about differences between "
        "settings."
    )


def _use(run: RunFolder) -> str:
    return f"""## Use

```python
from newslora import NewsClassifier

NewsClassifier.load("{run.path.resolve().name}").predict(["The article's text"])
```

or in plain peft (texts then go in as they are, and probabilities at temperature 1):

```python
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

folder = "{run.path.resolve().name}/adapter"
model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels={_label_count(run)})
tokenizer = AutoTokenizer.from_pretrained(folder)
```"""


def _label_count(run: RunFolder) -> int:
    labels = json.loads((run.adapter / "config.json").read_text(encoding="utf-8"))["id2label"]
    return len(labels)


def _repeat() -> str:
    return "## Repeat\n\n```\nnewslora train config.yaml --output repeated\n```"
