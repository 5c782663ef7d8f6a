"""The page on which a person reads an audit."""

from pathlib import Path
from typing import Final

from newslora.evaluation.audit import Audit
from newslora.evaluation.page import render
from newslora.files import write_text

MOST_ROWS: Final = 1000
MOST_GROUPS: Final = 100


def write_page(audit: Audit, path: Path) -> Path:
    """Write the most suspicious rows and the near-duplicates at odds as one self-contained page.

    Args:
        audit: The judged table.
        path: The HTML file.

    Returns:
        The path.
    """
    values = {
        "name": Path(audit.source).name,
        "names": audit.names,
        "summary": audit.summary,
        "rows": audit.verdicts[:MOST_ROWS],
        "conflicts": audit.conflicts[:MOST_GROUPS],
    }
    write_text(path, render("audit.html.jinja", values, scripts=("audit.js",)))
    return path
