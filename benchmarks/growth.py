"""How the time and the memory of training grow with rows, with the articles' length and with the model's size.

Run on a quiet machine:

    python benchmarks/growth.py --output growth

newslora stands beside transformers' Trainer with peft and ``group_by_length``, each point in a process of its own, as
in ``train_speed.py``. The articles are random words, each a token of MiniLM's vocabulary, and the models have BERT's
shape with random weights: neither changes how long a product takes. Points that stand in OUTPUT.jsonl are not measured
again. OUTPUT.png shows an epoch's seconds and the process's peak memory.
"""

import argparse
import csv
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import train_speed

SIDES = ("newslora", "c: Trainer+peft, group_by_length")
BASE: dict[str, int] = {"rows": 300, "length": 52, "layers": 6, "width": 384}
"""What stays as it is while another thing grows: MiniLM's shape, and AG News' mean length in tokens."""
SERIES: dict[str, list[dict[str, int]]] = {
    "articles": [{"rows": rows} for rows in (150, 300, 600, 1200, 2400)],
    "tokens an article": [{"length": length} for length in (32, 64, 128, 256, 512)],
    "parameters (millions)": [
        {"layers": layers, "width": width} for layers, width in ((2, 128), (4, 256), (6, 384), (6, 768), (12, 768))
    ],
}


def write_table(file: Path, words: list[str], rows: int, length: int) -> None:
    """Write articles of exactly ``length`` tokens, the two around each counted, in two classes."""
    drawn = random.Random(0)
    with file.open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["label", "text"])
        # A twentieth more: that share is kept back as validation rows.
        for row in range(rows + rows // 18):
            table.writerow([row % 2, " ".join(drawn.choices(words, k=length - 2))])


def write_backbone(folder: Path, layers: int, width: int) -> int:
    """Write a backbone of BERT's shape with random weights, and return its number of parameters."""
    import torch
    from transformers import AutoModel

    from newslora.model import backbone

    torch.manual_seed(0)
    with backbone.quiet_transformers():
        config = backbone.load_config(backbone.locate("minilm"))
        config.update({"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width})
        config.update({"num_attention_heads": width // 32})
        model = AutoModel.from_config(config)
        model.save_pretrained(folder)
        backbone.load_tokenizer("minilm").save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def whole_words() -> list[str]:
    """Return plain words that are one token each."""
    from newslora.model.backbone import load_tokenizer

    return sorted(
        word for word in load_tokenizer("minilm").get_vocab() if word.isascii() and word.isalpha() and len(word) > 2
    )


def points() -> Iterator[tuple[str, dict[str, int], str]]:
    """Yield each point's series, sizes and side."""
    for series, changes in SERIES.items():
        for change in changes:
            for side in SIDES:
                yield series, BASE | change, side


def measured(words: list[str], sizes: dict[str, int], side: str) -> dict[str, float]:
    """Measure one point in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        table, model = Path(folder) / "table.csv", Path(folder) / "model"
        write_table(table, words, sizes["rows"], sizes["length"])
        parameters = write_backbone(model, sizes["layers"], sizes["width"])
        own = {"data": table, "rows": sizes["rows"], "length": sizes["length"], "folder": str(model)}
        asked = argparse.Namespace(backbone="minilm", upper="3-5", rank=8, **own)
        return train_speed.run_one(side, asked) | {"parameters": parameters}


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw seconds and memory over each thing that grows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    panels = figure.subplots(2, 3, sharey="row")
    for column, series in enumerate(SERIES):
        for side, style in zip(SIDES, ("o-", "s--"), strict=True):
            own = [row for row in rows if row["series"] == series and row["side"] == side]
            x = [_size(row) for row in own]
            panels[0, column].plot(x, [row["seconds"] for row in own], style, label=side)
            panels[1, column].plot(x, [row["peak_mb"] / 1000 for row in own], style, label=side)
        panels[0, column].set(xscale="log", yscale="log")
        panels[1, column].set(xscale="log", xlabel=series)
        for row in (0, 1):
            panels[row, column].set_xticks(x, [f"{size:.0f}" for size in x])
            panels[row, column].minorticks_off()
    panels[0, 0].set(ylabel="an epoch (seconds)")
    panels[1, 0].set(ylabel="peak memory (GB)", ylim=(0, None))
    panels[1, 0].legend(loc="upper left")
    figure.suptitle(
        "{rows} articles of {length} tokens, {layers} layers of width {width}, but for what grows".format(**BASE)
    )
    figure.savefig(file, dpi=150)


def _size(row: dict[str, Any]) -> float:
    return {"articles": row["rows"], "tokens an article": row["length"]}.get(row["series"], row["parameters"] / 1e6)


def report(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table."""
    print("\n| " + " | ".join(["what grows", "size", *(f"{side}: seconds | MB" for side in SIDES)]) + " |")
    print("|---|" + "---:|" * (1 + 2 * len(SIDES)))
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        figures = " | ".join(f"{row['seconds']:.2f} | {row['peak_mb']:.0f}" for row in (ours, theirs))
        print(f"| {ours['series']} | {_size(ours):.0f} | {figures} |")


def main() -> None:
    """Measure every point that does not stand in the output yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="growth", help="name of the JSONL and PNG files, without ending")
    options = parser.parse_args()
    file, words = Path(f"{options.output}.jsonl"), whole_words()
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for series, sizes, side in list(points())[len(rows) :]:
        rows.append({"series": series, "side": side, **sizes, **measured(words, sizes, side)})
        print(rows[-1], flush=True)
        with file.open("a") as out:
            out.write(json.dumps(rows[-1]) + "\n")
    report(rows)
    draw(rows, file.with_suffix(".png"))


if __name__ == "__main__":
    main()
