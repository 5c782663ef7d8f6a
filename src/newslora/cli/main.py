"""The command ``newslora``: its exit status, and its settings parted from its options."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from newslora.cli import tells_faults
from newslora.cli.parser import build_parser
from newslora.config import check_setting
from newslora.errors import NewsloraError

_WITH_SETTINGS = ("train", "baseline", "sweep", "distill", "fuse")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name; that of the process when None.

    Returns:
        The exit status: 0 done, 2 the user's input is at fault (one line on stderr), 1 interrupted.
    """
    try:
        options, settings = _parse(list(sys.argv[1:] if arguments is None else arguments))
        # bitsandbytes, which peft imports where it is installed, would load PyTorch's whole compiler (a second and a
        # half) for functions that no command calls compiled.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        # Heavy: only once it is known what to run. An export is served without the PyTorch that the others need.
        commands = import_module(f"newslora.cli.{'serve' if options.command == 'serve' else 'commands'}")
        status: int | None = getattr(commands, options.command.replace("-", "_"))(options, settings)
        return status or 0
    except NewsloraError as error:
        if tells_faults():
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    arguments, settings = _take_settings(arguments)
    options, rest = build_parser().parse_known_args(arguments)
    for word in [*rest, *(f"--{name}" for name in settings if options.command not in _WITH_SETTINGS)]:
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


if __name__ == "__main__":
    sys.exit(main())
