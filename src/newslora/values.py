"""Settings as text: how a command line and a YAML file write them."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BeforeValidator, Field

from newslora.errors import NewsloraError


def _listed(value: object) -> object:
    """Read ``a,b`` from a command line as the list it stands for."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _layer_list(value: object) -> object:
    """Read ``3-5`` and ``0,2,4-6`` as layer numbers."""
    if isinstance(value, int):
        return (value,)
    if not isinstance(value, str):
        return value
    return tuple(number for part in value.split(",") for number in _layer_range(part.strip()))


def _layer_range(text: str) -> range:
    first, dash, last = text.partition("-")
    last = last if dash else first
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ValueError("give layer numbers such as 3-5 or 0,2,4-6")
    return range(int(first), int(last) + 1)


def _pairs(value: object) -> object:
    """Read ``value=16,0-2=4`` from a command line, and YAML's bare layer numbers, as a mapping."""
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",") if part.strip()]
        return {key.strip(): number.strip() for key, _, number in parts}
    return {str(key): number for key, number in value.items()} if isinstance(value, dict) else value


def _several(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < max(2, len(seeds)):
        raise ValueError("give two seeds or more, each once, such as 0,1,2,3,4")
    return seeds


_MOST = 1 << 20  # bytes of a file of settings

Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_listed), AfterValidator(_several)]
Layers = Annotated[tuple[int, ...], BeforeValidator(_layer_list)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Number = TypeVar("Number")
Pattern = Annotated[dict[str, Number], BeforeValidator(_pairs)]


def parse_value(text: str) -> str | None:
    """Return what a setting's text on the command line stands for.

    Only null needs reading: pydantic turns text into numbers, and yes, no, true and false into booleans.
    """
    return None if text in {"null", "none", "None"} else text


class _Loader(yaml.SafeLoader):
    """Knows no aliases, by which a few lines can stand for more than the memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MOST + 1)
    if len(content) > _MOST:
        raise NewsloraError(
            f"{path}: is larger than the {_MOST:,} bytes that settings may have; give a YAML file of settings"
        )
    return content.decode("utf-8")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        NewsloraError: The file cannot be read, is no YAML (the line is named), or holds no mapping.
    """
    try:
        values = yaml.load(_text(path), _Loader)  # nosec B506  # noqa: S506 - a safe loader
    except OSError as error:
        raise NewsloraError(f"{path}: cannot be read ({error.strerror}); give a YAML file of settings") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise NewsloraError(f"{path}{line}: not readable as YAML ({reason}); give a YAML file of settings") from error
    if not isinstance(values, dict):
        raise NewsloraError(f"{path}: holds no settings; give sections such as data, model, lora and train")
    return values


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for a name that is not known: the nearest known one, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"
