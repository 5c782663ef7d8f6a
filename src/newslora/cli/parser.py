"""The commands and their options."""

import argparse
from typing import NoReturn

from newslora import __version__
from newslora.config import RunConfig, preset_names, section_type
from newslora.errors import NewsloraError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # The house's one line instead of argparse's usage dump.
        raise NewsloraError(f"{self.prog}: {message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; it raises NewsloraError where argparse would print its usage and leave."""
    parser = _Parser(
        prog="newslora",
        allow_abbrev=False,
        description="Fine-tune an encoder with LoRA to classify news, under a million trainable parameters.",
    )
    parser.add_argument("--version", action="version", version=f"newslora {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for add in (
        _quickstart,
        _plan,
        _train,
        _evaluate,
        _predict,
        _audit,
        _baseline,
        _compare,
        _sweep,
        _distill,
        _fuse,
        _export,
        _serve,
    ):
        add(commands)
    return parser


Commands = argparse._SubParsersAction


def _quickstart(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser(
        "quickstart", allow_abbrev=False, help="train, evaluate, draw and classify on what is packaged"
    )
    command.add_argument(
        "--output", metavar="RUN", default="newslora-quickstart", help="run folder (default %(default)s)"
    )
    command.add_argument("--json", action="store_true", help="print the evaluation as JSON")


def _plan(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser(
        "plan", allow_abbrev=False, help="list LoRA configurations that fit the budget, without weights"
    )
    command.add_argument("--model", required=True, metavar="M", help="hub id, local folder or minilm")
    command.add_argument("--labels", required=True, type=_positive, metavar="K", help="number of labels")
    command.add_argument(
        "--budget", type=_positive, default=1_000_000, metavar="N", help="parameters (default 1,000,000)"
    )
    command.add_argument("--revision", metavar="R", help="revision of a hub model")
    command.add_argument("--json", action="store_true", help="print every configuration as JSON")


def _train(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser(
        "train",
        help="fine-tune a classifier",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_settings_help(),
        usage="newslora train [CONFIG] [--preset P] [--output RUN] [--resume] [--engine E] [--json] "
        "[--section.key VALUE …]",
    )
    command.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file of settings, such as RUN/config.yaml")
    command.add_argument("--preset", metavar="P", help=f"packaged settings: {', '.join(preset_names())}")
    command.add_argument("--output", metavar="RUN", help="run folder (default runs/DATE-TIME)")
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    _engine(command)
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def _evaluate(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser("evaluate", allow_abbrev=False, help="measure a run on a labelled table")
    command.add_argument("run", metavar="RUN", help="run folder")
    command.add_argument("--data", required=True, metavar="FILE", help="labelled table, as for train")
    command.add_argument("--output", metavar="DIR", help="where to write (default RUN, replacing its evaluation)")
    command.add_argument(
        "--shift", action="store_true", help="measure changed texts too: raw, lower case, typos, long …"
    )
    command.add_argument("--json", action="store_true", help="print evaluation.json")


def _predict(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser("predict", allow_abbrev=False, help="classify texts, or the rows of a file")
    command.add_argument("run", metavar="RUN", help="run folder")
    command.add_argument("texts", nargs="*", metavar="TEXT", help="articles")
    command.add_argument("--input", metavar="FILE", help="table to classify; - reads lines from standard input")
    command.add_argument("--output", metavar="FILE", help="where to write; - is standard output")
    command.add_argument("--text", metavar="COLUMNS", help="text columns, comma-separated (found when not given)")
    command.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="a row that cannot be read")
    _engine(command)
    command.add_argument("--json", action="store_true", help="print labels and all probabilities as JSON")


def _baseline(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser(
        "baseline",
        allow_abbrev=False,
        help="fit what a fine-tuned run has to beat",
        usage="newslora baseline NAME [CONFIG] [--preset P] --output RUN [--resume] [--json] [--section.key VALUE …]",
    )
    command.add_argument("name", metavar="NAME", help="majority, svm, logistic, fasttext or probe")
    command.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file of settings, such as RUN/config.yaml")
    command.add_argument("--preset", metavar="P", help="packaged settings, as for train")
    command.add_argument("--output", required=True, metavar="RUN", help="run folder")
    command.add_argument("--resume", action="store_true", help="go on with the seeds that are not finished")
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def _compare(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser("compare", allow_abbrev=False, help="hold runs against the first, on the same rows")
    command.add_argument("runs", nargs="+", metavar="RUN", help="run folders, of one seed or several; baselines too")
    command.add_argument("--data", metavar="FILE", help="labelled table (default what each was evaluated on last)")
    command.add_argument("--output", metavar="CSV", help="where to write the rows on which they disagree")
    command.add_argument("--json", action="store_true", help="print the comparison as JSON")


def _sweep(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser(
        "sweep",
        allow_abbrev=False,
        help="search settings within the budget",
        usage="newslora sweep [CONFIG] --output DIR [--trials N] [--objectives O,…] [--engine E] "
        "[--section.key VALUE …]",
    )
    command.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file of settings with a section search")
    command.add_argument("--preset", metavar="P", help="packaged sweep: paper-grid")
    command.add_argument("--output", required=True, metavar="DIR", help="folder of trials, tables and best.yaml")
    command.add_argument("--trials", type=_positive, metavar="N", help="trials in all (default: every combination)")
    command.add_argument(
        "--objectives", default="accuracy", metavar="O,…", help="accuracy or macro_f1, then parameters, seconds"
    )
    command.add_argument("--storage", metavar="FILE", help="journal shared by processes (default DIR/journal.log)")
    _engine(command)
    command.add_argument("--json", action="store_true", help="print the best trial as JSON")


def _distill(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser(
        "distill",
        allow_abbrev=False,
        help="teach a smaller student from a run",
        usage="newslora distill RUN --output RUN2 (--layers N | --backbone M) [--unlabelled FILE] "
        "[--section.key VALUE …]",
    )
    command.add_argument("run", metavar="RUN", help="the teacher's run folder")
    command.add_argument("--output", required=True, metavar="RUN2", help="the student's run folder")
    command.add_argument("--layers", type=_positive, metavar="N", help="keep so many of the teacher's layers")
    command.add_argument("--backbone", metavar="M", help="another backbone: hub id, local folder or minilm")
    command.add_argument("--unlabelled", metavar="FILE", help="table of further texts, which the teacher labels")
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def _export(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser("export", allow_abbrev=False, help="write a run in the form that production reads")
    command.add_argument("run", metavar="RUN", help="run folder")
    command.add_argument(
        "--format",
        required=True,
        choices=("merged", "onnx", "onnx-int8"),
        help="merged: a plain Transformers folder; onnx: a graph for ONNX Runtime; onnx-int8: in 8-bit integers",
    )
    command.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    command.add_argument(
        "--data", metavar="FILE", help="rows to check the export on (default: of the run's test table, or the sample)"
    )
    command.add_argument("--json", action="store_true", help="print the check's figures as JSON")


def _serve(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser("serve", allow_abbrev=False, help="answer over HTTP, with a page at /")
    command.add_argument("runs", nargs="+", metavar="RUN", help="run folders or exports; the first one is the default")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    command.add_argument("--port", type=int, default=8000, metavar="N", help="port (default %(default)s)")
    command.add_argument("--adapters", metavar="DIR", help="folder of run folders that may be added while serving")
    command.add_argument(
        "--token-file", metavar="FILE", help="token that requests must carry (or the variable NEWSLORA_TOKEN)"
    )


def _audit(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser(
        "audit", allow_abbrev=False, help="rank a labelled table's rows by how probably wrong"
    )
    command.add_argument(
        "run", nargs="?", metavar="RUN", help="run trained on other, trusted rows (default: the table alone)"
    )
    command.add_argument("--data", required=True, metavar="FILE", help="labelled table, as for train")
    command.add_argument(
        "--output", required=True, metavar="FILE", help="ranking (.csv); its page stands beside it (.html)"
    )
    command.add_argument("--label", metavar="COLUMN", help="label column (found when not given)")
    command.add_argument("--text", metavar="COLUMNS", help="text columns, comma-separated (found when not given)")
    command.add_argument("--method", choices=("newslora", "cleanlab"), default="newslora", help="for the table alone")
    command.add_argument(
        "--backbone", default="minilm", metavar="M", help="encoder for the table alone (default minilm)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the folds (default 0)")
    command.add_argument("--json", action="store_true", help="print the summary as JSON")


def _fuse(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser(
        "fuse",
        allow_abbrev=False,
        help="combine the adapters of several runs into one",
        usage="newslora fuse RUN RUN … --output RUN2 [--method M] [--data FILE] [--section.key VALUE …]",
    )
    command.add_argument("runs", nargs="+", metavar="RUN", help="run folders on one backbone")
    command.add_argument("--output", required=True, metavar="RUN2", help="the new run folder")
    command.add_argument(
        "--method",
        choices=("weighted", "svd", "ties", "dare", "learned"),
        default="weighted",
        help="(default weighted)",
    )
    command.add_argument("--data", metavar="FILE", help="labelled table to choose on, or to learn a mixture from")


def _engine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="ray: on a Ray cluster (default %(default)s)"
    )
    command.add_argument("--workers", type=_positive, metavar="N", help="workers on ray, a core each (default all)")


def _positive(text: str) -> int:
    if not text.replace("_", "").replace(",", "").isdigit() or int(text.replace(",", "")) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text.replace(",", ""))


def _settings_help() -> str:
    lines = ["settings (the same names in YAML):"]
    for section in RunConfig.model_fields:
        for name, field in section_type(section).model_fields.items():
            default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
            lines.append(f"  --{section}.{name} (default {'null' if default is None else default})")
            lines.append(f"      {field.description}")
    return "\n".join(lines)
