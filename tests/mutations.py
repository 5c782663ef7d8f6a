"""Run folders altered at random: by accident, or by a stranger who seals the folder again."""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from newslora.model.seal import seal

JSON_FILES = ("adapter_config.json", "config.json", "newslora.json", "tokenizer_config.json", "cleaner.json")
WEIGHTS = "adapter_model.safetensors"
Mutation = Callable[[Path, random.Random, Path], str]


class Payload:
    """Unpickled, it makes a file: code that ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def _some_file(adapter: Path, draw: random.Random) -> Path:
    return draw.choice(sorted(file for file in adapter.iterdir() if file.is_file()))


def flip(adapter: Path, draw: random.Random, outside: Path) -> str:
    file = _some_file(adapter, draw)
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    content[place] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    return f"bit of byte {place} of {file.name} flipped"


def overwrite(adapter: Path, draw: random.Random, outside: Path) -> str:
    file = _some_file(adapter, draw)
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    content[place : place + 16] = draw.randbytes(16)
    file.write_bytes(content)
    return f"16 bytes of {file.name} overwritten"


def cut(adapter: Path, draw: random.Random, outside: Path) -> str:
    file = _some_file(adapter, draw)
    os.truncate(file, draw.randrange(file.stat().st_size))
    return f"{file.name} cut"


def lengthen(adapter: Path, draw: random.Random, outside: Path) -> str:
    file = _some_file(adapter, draw)
    file.write_bytes(file.read_bytes() + draw.randbytes(draw.randrange(1, 99)))
    return f"{file.name} lengthened"


def delete(adapter: Path, draw: random.Random, outside: Path) -> str:
    file = _some_file(adapter, draw)
    file.unlink()
    return f"{file.name} deleted"


def swap(adapter: Path, draw: random.Random, outside: Path) -> str:
    one, other = draw.sample(sorted(adapter.iterdir()), 2)
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    return f"{one.name} and {other.name} swapped"


def take_from_another(adapter: Path, draw: random.Random, outside: Path) -> str:
    file = _some_file(outside / "adapter", draw)
    shutil.copy(file, adapter / file.name)
    return f"{file.name} of another run"


def reorder_labels(adapter: Path, draw: random.Random, outside: Path) -> str:
    config = json.loads((adapter / "config.json").read_text())
    names = list(config["id2label"].values())
    config["id2label"] = {str(i): name for i, name in enumerate(names[1:] + names[:1])}
    (adapter / "config.json").write_text(json.dumps(config))
    return "id2label reordered"


def reorder_labels_well(adapter: Path, draw: random.Random, outside: Path) -> str:
    reorder_labels(adapter, draw, outside)
    config = json.loads((adapter / "config.json").read_text())
    config["label2id"] = {name: int(i) for i, name in config["id2label"].items()}
    (adapter / "config.json").write_text(json.dumps(config))
    return "id2label and label2id reordered"


def change_labels(adapter: Path, draw: random.Random, outside: Path) -> str:
    config = json.loads((adapter / "config.json").read_text())
    names = list(config["id2label"].values())
    names = draw.choice([names[:-1], [*names, "One more"], [*names[:-1], names[0]], [*names[:-1], 7]])
    config["id2label"] = {str(i): name for i, name in enumerate(names)}
    config["label2id"] = {str(name): i for i, name in enumerate(names)}
    (adapter / "config.json").write_text(json.dumps(config))
    return f"labels {names}"


def reshape(adapter: Path, draw: random.Random, outside: Path) -> str:
    tensors = load_file(adapter / WEIGHTS)
    name = draw.choice(sorted(tensors))
    change = draw.choice(["transposed", "halved", "widened", "float16", "float64", "scalar", "nan", "infinite"])
    old = tensors[name]
    tensors[name] = {
        "transposed": lambda: old.unsqueeze(0).contiguous() if old.ndim == 1 else old.T.contiguous()[:, :-1].clone(),
        "halved": lambda: old[: max(1, old.shape[0] // 2)].clone() if old.shape[0] > 1 else old.new_zeros(0),
        "widened": lambda: torch.cat([old, old]),
        "float16": old.half,
        "float64": old.double,
        "scalar": old.sum,
        "nan": lambda: torch.full_like(old, float("nan")),
        "infinite": lambda: torch.full_like(old, float("inf")),
    }[change]()
    save_file(tensors, adapter / WEIGHTS)
    return f"{name} {change}"


def rename_tensor(adapter: Path, draw: random.Random, outside: Path) -> str:
    tensors = load_file(adapter / WEIGHTS)
    name = draw.choice(sorted(tensors))
    change = draw.choice(["dropped", "renamed", "doubled"])
    kept = tensors[name].clone()
    if change != "doubled":
        del tensors[name]
    if change != "dropped":
        tensors[draw.choice([f"{name}.more", "x", name.replace("lora_A", "lora_C") + "2"])] = kept
    save_file(tensors, adapter / WEIGHTS)
    return f"{name} {change}"


def put_pickle(adapter: Path, draw: random.Random, outside: Path) -> str:
    payload = pickle.dumps(Payload(outside / "ran"))
    names = ("adapter_model.bin", "pytorch_model.bin", "model.pkl", "optimizer.pt", WEIGHTS, "tokenizer.json")
    name = draw.choice(names)
    if draw.random() < 0.5:
        (adapter / WEIGHTS).unlink(missing_ok=True)  # then some loaders take the pickle
    (adapter / name).write_bytes(payload)
    return f"pickle as {name}"


def point_outside(adapter: Path, draw: random.Random, outside: Path) -> str:
    place = draw.choice([f"../../../{outside.name}", f"{adapter}/../../../{outside.name}", "..", "~/x", "file:///etc"])
    name, key = draw.choice(
        [
            ("newslora.json", "backbone"),
            ("tokenizer_config.json", "vocab_file"),
            ("tokenizer_config.json", "tokenizer_file"),
            ("config.json", "_name_or_path"),
        ]
    )
    values = json.loads((adapter / name).read_text())
    values[key] = place
    (adapter / name).write_text(json.dumps(values))
    return f"{key} of {name} is {place}"


def seal_outside(adapter: Path, draw: random.Random, outside: Path) -> str:
    checksums = json.loads((adapter / "checksums.json").read_text())
    name = draw.choice(["../config.yaml", f"{outside}/adapter/{WEIGHTS}", "..", "", "a\0b"])
    checksums["files"][name] = next(iter(checksums["files"].values()))
    (adapter / "checksums.json").write_text(json.dumps(checksums))
    return f"checksums name {name!r}"


def link(adapter: Path, draw: random.Random, outside: Path) -> str:
    file = _some_file(adapter, draw)
    file.unlink()
    target = draw.choice([outside / "adapter" / file.name, Path("/dev/zero"), Path("/dev/null"), outside / "nowhere"])
    file.symlink_to(target)
    return f"{file.name} is a link to {target.name}"


def no_plain_file(adapter: Path, draw: random.Random, outside: Path) -> str:
    file = _some_file(adapter, draw)
    file.unlink()
    if draw.random() < 0.5:
        file.mkdir()
        return f"{file.name} is a folder"
    os.mkfifo(file)
    return f"{file.name} is a pipe"


def oversize(adapter: Path, draw: random.Random, outside: Path) -> str:
    file = adapter / draw.choice((*JSON_FILES, "checksums.json", WEIGHTS, "tokenizer.json"))
    os.truncate(file, 1 << 37)  # a hole: takes no room
    return f"{file.name} of 128 GiB"


def nest(adapter: Path, draw: random.Random, outside: Path) -> str:
    file = adapter / draw.choice((*JSON_FILES, "checksums.json", "tokenizer.json"))
    bombs = ["[" * 100_000, '{"a":' * 100_000]
    if not file.name.startswith("tokenizer"):  # these may leave a tokenizer that is another, and whole
        bombs += ['{"r": ' + "9" * 5000 + "}", '{"max_length": 1e400}', "\ufeff{}"]
    file.write_text(draw.choice(bombs))
    return f"{file.name} nested or outgrown"


def replace_value(adapter: Path, draw: random.Random, outside: Path) -> str:
    file = adapter / draw.choice(JSON_FILES)
    values = json.loads(file.read_text())
    key = draw.choice([*values, "auto_map", "unheard_of"])
    values[key] = draw.choice([None, -1, 0, 10**9, 1.5, True, "x", "a" * 99, [], [1], {}, {"a": "b.c"}])
    file.write_text(json.dumps(values))
    return f"{key} of {file.name} is {values[key]!r}"


def remote_code(adapter: Path, draw: random.Random, outside: Path) -> str:
    name = draw.choice(["config.json", "tokenizer_config.json"])
    values = json.loads((adapter / name).read_text())
    values["auto_map"] = {"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.Tokenizer", None]}
    (adapter / name).write_text(json.dumps(values))
    (adapter / "evil.py").write_text(f"import pathlib\npathlib.Path({str(outside / 'ran')!r}).touch()\n")
    return f"auto_map in {name}"


def dangerous_peft(adapter: Path, draw: random.Random, outside: Path) -> str:
    values = json.loads((adapter / "adapter_config.json").read_text())
    key, value = draw.choice(
        [
            ("megatron_config", {"a": 1}),
            ("megatron_core", "antigravity"),
            ("target_modules", "(a+)+$"),
            ("target_modules", ["query"]),
            ("layer_replication", [[0, 2], [0, 2]]),
            ("init_lora_weights", "pissa"),
            ("bias", "all"),
            ("fan_in_fan_out", True),
            ("trainable_token_indices", [1]),
            ("modules_to_save", ["embeddings", "classifier"]),
            ("modules_to_save", []),
            ("r", 10**9),
            ("lora_alpha", float("nan")),
            ("peft_type", "IA3"),
            ("rank_pattern", {".*": 10**9}),
        ]
    )
    values[key] = value
    (adapter / "adapter_config.json").write_text(json.dumps(values))
    return f"{key} of adapter_config.json is {value}"


def another_adapter(adapter: Path, draw: random.Random, outside: Path) -> str:
    if draw.random() < 0.5:
        shutil.copytree(outside / "adapter", adapter / draw.choice(["other", "default", "tokenizer"]))
        return "another adapter inside"
    name = draw.choice(["adapter_model-2.safetensors", "model.safetensors", "vocab.txt", "added_tokens.json"])
    shutil.copy(outside / "adapter" / WEIGHTS, adapter / name)
    return f"{name} beside the adapter"


def run_files(adapter: Path, draw: random.Random, outside: Path) -> str:
    file = draw.choice(sorted(f for f in adapter.parent.iterdir() if f.is_file() and not f.is_symlink()))
    file.write_bytes(draw.randbytes(50))
    return f"{file.name} of the run overwritten"


ACCIDENTS: tuple[Mutation, ...] = (
    *(flip, flip, flip, overwrite, cut, lengthen, delete, swap, take_from_another, reorder_labels),
    *(reorder_labels_well, change_labels, reshape, rename_tensor, put_pickle, point_outside, seal_outside, link),
    *(no_plain_file, oversize, nest, replace_value, remote_code, dangerous_peft, another_adapter, run_files),
)
# What a stranger may seal anew and must still be found out; a whole other adapter is simply another adapter.
STRANGERS: tuple[Mutation, ...] = (
    *(reorder_labels, change_labels, reshape, rename_tensor, put_pickle, link, no_plain_file, nest, remote_code),
    *(dangerous_peft, another_adapter),
)


def mutate(run: Path, outside: Path, seed: int) -> str:
    """Alter the run folder and say how; every third time a stranger does it and seals the adapter again."""
    draw = random.Random(seed)
    adapter = run / "adapter"
    stranger = seed % 3 == 2
    told = draw.choice(STRANGERS if stranger else ACCIDENTS)(adapter, draw, outside)
    if stranger:
        if (adapter / "checksums.json").is_dir():
            (adapter / "checksums.json").rmdir()
        seal(adapter)
    return f"{told}{', sealed again' if stranger else ''}"
