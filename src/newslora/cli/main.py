"""The command ``newslora``: parsing and nothing else; each command is one thin function in ``commands``."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from newslora import __version__
from newslora.config import RunConfig, check_setting, preset_names, section_type
from newslora.errors import NewsloraError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # The house's one line instead of argparse's usage dump.
        raise NewsloraError(f"{self.prog}: {message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name; that of the process when None.

    Returns:
        The exit status: 0 done, 2 the user's input is at fault (one line on stderr), 1 interrupted.
    """
    try:
        options, settings = _parse(list(sys.argv[1:] if arguments is None else arguments))
        from newslora.cli import commands  # heavy: only once it is known what to run

        status: int | None = getattr(commands, options.command.replace("-", "_"))(options, settings)
        return status or 0
    except NewsloraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    arguments, settings = _take_settings(arguments)
    options, rest = _build().parse_known_args(arguments)
    for word in [*rest, *(f"--{name}" for name in settings if options.command != "train")]:
        raise NewsloraError(
            f"newslora {options.command}: unknown argument {word!r}; see newslora {options.command} --help"
        )
    return options, settings


def _take_settings(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Part ``--section.key value`` and ``--section.key=value`` from the rest, which argparse would mix them up with."""
    rest: list[str] = []
    settings: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or "." not in name or " " in name:
            rest.append(word)
            continue
        check_setting(name)
        following = value if equals else next(words, None)
        if following is None:
            raise NewsloraError(f"--{name}: has no value; give --{name} VALUE")
        settings[name] = following
    return rest, settings


def _build() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="newslora",
        allow_abbrev=False,
        description="Fine-tune an encoder with LoRA to classify news, under a million trainable parameters.",
    )
    parser.add_argument("--version", action="version", version=f"newslora {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for add in (_quickstart, _plan, _train, _evaluate, _predict):
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
        usage="newslora train [CONFIG] [--preset P] [--output RUN] [--resume] [--json] [--section.key VALUE …]",
    )
    command.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file of settings, such as RUN/config.yaml")
    command.add_argument("--preset", metavar="P", help=f"packaged settings: {', '.join(preset_names())}")
    command.add_argument("--output", metavar="RUN", help="run folder (default runs/DATE-TIME)")
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def _evaluate(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser("evaluate", allow_abbrev=False, help="measure a run on a labelled table")
    command.add_argument("run", metavar="RUN", help="run folder")
    command.add_argument("--data", required=True, metavar="FILE", help="labelled table, as for train")
    command.add_argument("--output", metavar="DIR", help="where to write (default RUN, replacing its evaluation)")
    command.add_argument("--json", action="store_true", help="print evaluation.json")


def _predict(commands: "Commands[_Parser]") -> None:
    command = commands.add_parser("predict", allow_abbrev=False, help="classify texts, or the rows of a file")
    command.add_argument("run", metavar="RUN", help="run folder")
    command.add_argument("texts", nargs="*", metavar="TEXT", help="articles")
    command.add_argument("--input", metavar="FILE", help="table to classify; - reads lines from standard input")
    command.add_argument("--output", metavar="FILE", help="where to write; - is standard output")
    command.add_argument("--text", metavar="COLUMNS", help="text columns, comma-separated (found when not given)")
    command.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="a row that cannot be read")
    command.add_argument("--json", action="store_true", help="print labels and all probabilities as JSON")


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


if __name__ == "__main__":
    sys.exit(main())
