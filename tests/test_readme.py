"""Every command and every line of Python that the documents show runs."""

import re
import shlex
from importlib import resources
from pathlib import Path

import pytest

from newslora.cli.main import _parse, main
from newslora.config import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = ["--data.limit", "48", "--train.epochs", "1", "--train.warm_head", "false"]


def shown_commands() -> list[str]:
    documents = [README, *(file.read_text(encoding="utf-8") for file in (ROOT / "docs").glob("*.md"))]
    fenced = [
        line
        for text in documents
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    indented = [line.strip() for text in documents for line in text.splitlines() if line.startswith("    newslora ")]
    return [*fenced, *indented]


@pytest.mark.parametrize("command", shown_commands())
def test_every_shown_command_parses(command: str) -> None:
    options, settings = _parse(shlex.split(command)[1:])
    if options.command == "train" and not options.resume and options.config is None:
        load_config(None, options.preset, settings)


def test_ci_runs_the_readmes_test_command() -> None:
    [tests] = [line.strip() for line in README.splitlines() if line.endswith("/pytest")]
    assert tests in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # plain peft's own
def test_the_tour_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sample = resources.files("newslora") / "data" / "sample"
    for name, part in (("articles", "train"), ("test", "test")):
        rows = (sample / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
        Path(f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        _as_csv(Path(f"{name}.jsonl"), Path(f"{name}.csv"))
    for block in re.findall(r"```(console|python)\n(.*?)```", README, flags=re.DOTALL):
        _run(*block)
    assert "scores" in capsys.readouterr().out
    assert len(Path("predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 100
    assert Path("repeated/evaluation.json").exists()


def _as_csv(source: Path, target: Path) -> None:
    import pandas

    pandas.read_json(source, lines=True).to_csv(target, index=False)


def _run(language: str, text: str) -> None:
    if language == "python":
        exec(compile(text, "README.md", "exec"), {})  # noqa: S102 - the document under test
        return
    for line in text.strip().splitlines():
        words = shlex.split(line)[1:]
        fresh = words[0] == "train" and "--resume" not in words and "repeated" not in words
        assert main([*words, *(QUICK if fresh else [])]) == 0, line
