"""One self-contained page from a template: style and script inlined, everything else forbidden by the page itself."""

import base64
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib import resources
from typing import Any, Final

import jinja2
from markupsafe import Markup

_FOLDER: Final = resources.files("newslora") / "evaluation" / "page"
_STYLES: Final = ("uPlot.min.css", "report.css")
_SCRIPTS: Final = ("uPlot.iife.min.js", "report.js")
_LICENSE: Final = "uPlot.LICENSE.txt"


def render(name: str, values: Mapping[str, Any], scripts: Sequence[str] = _SCRIPTS) -> str:
    """Return a template of this package as HTML, every value escaped.

    The page's content security policy allows its own style and script by their hashes and nothing else, so that text
    of a row can neither run nor load anything, whatever stands in it.

    Args:
        name: The template's name.
        values: What the template shows.
        scripts: The files that its script is made of.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": _points, "count": _count}
    style, script = ("\n".join(map(_read, names)) for names in (_STYLES, scripts))
    assets = {"style": Markup(style), "script": Markup(script), "license": _read(_LICENSE)}  # nosec B704  # noqa: S704 - our own files
    return environment.get_template(name).render(values, **assets, policy=_policy(style, script))


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{share:.{digits}%}"


def _points(difference: float) -> str:
    """Return a difference of two shares in percentage points, with a true minus sign."""
    text = f"{100 * difference:+.1f}".replace("-", "−")
    return text[1:] if text[1:] == "0.0" else text


def _count(number: int) -> str:
    return f"{number:,}"
