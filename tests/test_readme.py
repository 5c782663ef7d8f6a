"""Every command and every line of Python that the documents show runs."""

import json
import re
import shlex
import socket
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pandas
import pytest

from newslora.cli.main import _parse, main
from newslora.cli.parser import build_parser
from newslora.config import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = ["--train.epochs", "1", "--train.warm_head", "false"]
TRAINS = ("train", "distill", "sweep")
TIMES = {"seconds", "samples_per_second"}


def documents() -> list[str]:
    return [README, *(file.read_text(encoding="utf-8") for file in sorted((ROOT / "docs").rglob("*.md")))]


def shown_commands() -> list[str]:
    fenced = [
        line
        for text in documents()
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    quickstart = re.findall(r"\.venv/bin/(newslora .*)", README)
    return [*fenced, *quickstart]


def mentioned_commands() -> list[str]:
    """Commands within a sentence, such as `newslora train --help`."""
    return sorted({" ".join(span.split()) for text in documents() for span in re.findall(r"`(newslora\s[^`]+)`", text)})


@pytest.mark.parametrize("command", shown_commands())
def test_every_shown_command_parses(command: str) -> None:
    options, settings = _parse(shlex.split(command)[1:])
    if options.command == "train" and not options.resume and options.config is None:
        load_config(None, options.preset, settings)


@pytest.mark.parametrize("command", mentioned_commands())
def test_every_mentioned_command_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *options = shlex.split(command)[1:]
    if "--help" in (name, *options):
        with pytest.raises(SystemExit, match=r"^0$"):
            main([name, *options])
        assert "usage: newslora" in capsys.readouterr().out
    elif options:
        _parse([name, *options])
    else:
        assert f"    {name} " in build_parser().format_help()


def test_ci_runs_the_readmes_test_command() -> None:
    [tests] = [line.strip() for line in README.splitlines() if line.endswith("/pytest -m 'not slow'")]
    assert f"{tests} || exit" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_linked_file_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # plain peft's own
def test_the_tour_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _write_sample("train", Path("articles.csv"), step=4)
    _write_sample("test", Path("test.csv"))
    for block in re.findall(r"```(console|python)\n(.*?)```", README, flags=re.DOTALL):
        _run(*block)
    assert "scores" in capsys.readouterr().out
    assert len(Path("predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 100
    assert Path("repeated/evaluation.json").exists()
    assert Path("from-python/adapter/adapter_model.safetensors").exists()
    assert _metrics(Path("repeated")) == _metrics(Path("my-run"))


def _write_sample(part: str, target: Path, step: int = 1) -> None:
    file = resources.files("newslora") / "data" / "sample" / f"{part}.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[::step]]
    pandas.DataFrame(rows).to_csv(target, index=False)


def _metrics(run: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def _run(language: str, text: str) -> None:
    if language == "python":
        exec(compile(text, "README.md", "exec"), {})  # noqa: S102 - the document under test
        return
    for line in text.strip().splitlines():
        words = shlex.split(line)[1:]
        if words[0] == "serve":
            _serve(words)
            continue
        fresh = words[0] in TRAINS and "--resume" not in words and "repeated" not in words
        assert main([*words, *(QUICK if fresh else [])]) == 0, line


def _serve(words: list[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen([sys.executable, "-m", "newslora.cli.main", *words, "--port", port])
    deadline = time.monotonic() + 120
    while True:
        try:
            assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            break
        except (httpx.HTTPError, AssertionError):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
    server.terminate()
    assert server.wait(30) == 0
