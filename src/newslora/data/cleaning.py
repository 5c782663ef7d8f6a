"""Repair of what newswire texts suffer on their way into tables: the same at training and at prediction."""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import ftfy
import ftfy.fixes

from newslora.data.frame import reason, shown
from newslora.errors import NewsloraError
from newslora.files import write_text

VERSION: Final = 1  # of the repair; a model trained on texts repaired otherwise would see other texts
_LONGEST_FILE: Final = 1 << 16
_MOST_PASSES: Final = 16

# ftfy returns ASCII without these unchanged (entities apart, which are unescaped below), so it need not be asked.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# An entity whose ampersand became a blank: "Marsh  amp; McLennan", "the firm #39;s". Only names that are no words.
_BROKEN_ENTITY: Final = re.compile(
    r" ?(?:(?<!&)#(?P<code>x[0-9a-f]{2,5}|\d{2,6});|(?<![&\w])(?P<name>quot|amp|lt|gt|apos|nbsp|hellip|bull|trade|euro|"
    r"[lr][sd]quo|[mn]dash|szlig|aelig|[A-Za-z](?:acute|grave|circ|tilde|uml|cedil|ring|slash));)"
)
# A backslash stands for a line break, except before what some writers escape.
_ESCAPE: Final = re.compile(r"""(?<!\\)\\++(?=[$"'&%#_])""")
_LINE_BREAK: Final = re.compile(r"\\+")
_INLINE: Final = "a|abbr|b|big|cite|code|em|font|i|nobr|q|s|small|span|strike|strong|sub|sup|tt|u"
_BLOCK: Final = (
    "article|aside|audio|blockquote|body|br|center|dd|div|dl|dt|embed|figcaption|figure|footer|form|h[1-6]|head|header|hr|"
    "html|iframe|img|input|li|link|main|map|meta|nav|object|ol|p|param|pre|script|section|style|table|tbody|td|tfoot|th|"
    "thead|title|tr|ul|video"
)
# Also a tag that the text's end cuts short.
_TAG: Final = re.compile(
    rf"<!--(?:(?!<!--).)*?-->|</?(?:(?P<inline>{_INLINE})|{_BLOCK})(?:[\s/][^<>]*)?(?:>|$)", re.I | re.S
)
_URL: Final = re.compile(r"(?:\b(?:https?|ftp)://|\bwww\.)[^\s<>]*[^\s<>.,;:!?)\]}\"']", re.I)
_NAMES: Final = "|".join(
    re.escape(name)
    for name in (
        *(
            "Reuters",
            "AP",
            "AFP",
            "UPI",
            "CP",
            "PTI",
            "UNI",
            "ANI",
            "DPA",
            "EFE",
            "ANSA",
            "TASS",
            "ITAR-TASS",
            "IANS",
            "PA",
        ),
        *("Canadian Press", "The Canadian Press", "Associated Press", "Bloomberg", "Dow Jones", "Kyodo", "Xinhua"),
        *(
            "Xinhuanet",
            "Interfax",
            "Yonhap",
            "Sports Network",
            "The Sports Network",
            "Ticker",
            "CBS.MW",
            "CNN/Money",
            "CNN",
        ),
        *("Forbes.com", "FT.com", "InfoWorld", "COMPUTERWORLD", "IDG NEWS SERVICE", "IDG News Service", "MacCentral"),
        *("NewsFactor", "PC World", "SiliconValley.com", "SPACE.com", "TechWeb", "TheDeal.com", "The Motley Fool"),
        *(
            "The Washington Post",
            "washingtonpost.com",
            "USATODAY.com",
            "Ziff Davis",
            "New Ratings",
            "Los Angeles Times",
        ),
    )
)
_AGENCY: Final = re.compile(
    rf"^\((?:{_NAMES})\) --?(?!\S)|\((?:{_NAMES})\)|(?<!\S)(?:{_NAMES}) --?(?!\S)|(?<!\S)--?(?:{_NAMES})(?!\S)"
)
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True)
class Cleaner:
    """The repair that travels with a model, as ``cleaner.json``.

    Attributes:
        drop_agency: Whether news agencies' names such as ``(Reuters)`` and ``AP -`` are removed.
    """

    drop_agency: bool = False

    def repair(self, text: str) -> str:
        """Return ``text`` repaired; repairing it again changes nothing.

        Mojibake and control characters (``ftfy``), entities whole and broken, backslashes for line breaks, HTML tags,
        URLs, white space and, if asked for, agencies' names. One repair may uncover the next (``&amp;lt;b&amp;gt;``),
        so they are repeated until nothing changes. Text that still changes after 16 passes is no prose but made to
        nest; its letters and digits are kept alone.
        """
        for _ in range(_MOST_PASSES):
            repaired = self._pass(text)
            if repaired == text:
                return text
            text = repaired
        return _NOT_PLAIN.sub(" ", text).strip()

    def _pass(self, text: str) -> str:
        if not text.isascii() or _CONTROL.search(text):
            text = ftfy.fix_text(text, unescape_html=False)
        if ";" in text:
            text = _BROKEN_ENTITY.sub(_decode, ftfy.fixes.unescape_html(text))
        if "\\" in text:
            text = _LINE_BREAK.sub(" ", _ESCAPE.sub("", text))
        if "<" in text:
            text = _TAG.sub(lambda tag: "" if tag["inline"] else " ", text)
        if "://" in text or "www." in text.lower():
            text = _URL.sub(" ", text)
        text = " ".join(text.split())
        return " ".join(_AGENCY.sub(" ", text).split()) if self.drop_agency else text

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads back."""
        return {"version": VERSION, "drop_agency": self.drop_agency}

    @classmethod
    def from_json(cls, values: object, where: str = "cleaner") -> Self:
        """Validate and read what :meth:`to_json` gives.

        Args:
            values: The parsed JSON.
            where: Name of its source, for messages.

        Raises:
            NewsloraError: Anything but the keys and types that :meth:`to_json` writes, or another version's repair.
        """
        expected = cls().to_json()
        if not isinstance(values, Mapping) or values.keys() != expected.keys():
            raise NewsloraError(f"{where}: is no cleaner; expected an object with {', '.join(expected)}")
        if type(values["version"]) is not int or values["version"] != VERSION:
            raise NewsloraError(
                f"{where}: version {shown(values['version'])} of the repair is unknown; expected {VERSION}"
            )
        if type(values["drop_agency"]) is not bool:
            raise NewsloraError(f"{where}: drop_agency is {shown(values['drop_agency'])}; expected true or false")
        return cls(drop_agency=values["drop_agency"])

    def save(self, path: Path) -> None:
        """Write the cleaner as JSON, whole or not at all."""
        write_text(path, json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a cleaner that :meth:`save` wrote.

        Raises:
            NewsloraError: The file cannot be read, or holds no cleaner.
        """
        try:
            with path.open("rb") as file:
                values = json.loads(file.read(_LONGEST_FILE))
        except (OSError, ValueError, RecursionError) as error:
            raise NewsloraError(f"{path}: cannot be read as a cleaner ({reason(error)})") from error
        return cls.from_json(values, str(path))


def _decode(entity: re.Match[str]) -> str:
    if entity["name"]:
        return html.unescape(f"&{entity['name']};")
    # "#12;" may be a ranking: only what stands for a printable sign that is no letter or digit of ASCII is decoded.
    sign = html.unescape(f"&#{entity['code']};")
    readable = sign.isprintable() and sign != "\ufffd" and not (sign.isascii() and sign.isalnum())
    return sign if sign == "\xa0" or (sign and readable) else entity[0]
