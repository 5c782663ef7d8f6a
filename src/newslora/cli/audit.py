"""``newslora audit``: which labels of a table are probably wrong."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from newslora.cli import display
from newslora.config import DataConfig
from newslora.data.audit_file import write_audit
from newslora.errors import NewsloraError
from newslora.evaluation.audit import Audit, audit_alone, audit_with_run
from newslora.evaluation.audit_page import write_page
from newslora.model.memory import keep_memory
from newslora.training.run_folder import RunFolder


def audit(options: argparse.Namespace, settings: dict[str, str]) -> None:
    """Rank the rows of a table, write the ranking as CSV and the page beside it, and say what was found."""
    output = Path(options.output)
    if output.suffix.lower() != ".csv":
        raise NewsloraError(f"--output {output}: the ranking is a CSV file, with its page beside it; give NAME.csv")
    if options.run and options.method == "cleanlab":
        raise NewsloraError("--method cleanlab: works on the table alone; give no RUN with it")
    keep_memory()
    found = _audit(options)
    write_audit(output, found.verdicts)
    page = write_page(found, output.with_suffix(".html"))
    if options.json:
        json.dump(found.summary | {"ranking": str(output), "page": str(page)}, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        _show(found, output, page)


def _audit(options: argparse.Namespace) -> Audit:
    text = options.text.split(",") if options.text else None
    data = DataConfig.model_validate({"text": text, "label": options.label})
    with display.counter(Console(stderr=True), "reading") as advance:
        if options.run:
            return audit_with_run(RunFolder.open(Path(options.run)), options.data, data, advance)
        return audit_alone(
            options.data, data, backbone=options.backbone, method=options.method, seed=options.seed, progress=advance
        )


def _show(found: Audit, output: Path, page: Path) -> None:
    summary = found.summary
    lines = [
        f"{summary['flagged']:,} of {summary['rows']:,} rows flagged, about {summary['estimated_wrong']:,} labels "
        f"wrong; {summary['conflicts']:,} groups of near-duplicates with different labels",
        f"judged by {summary['how']}",
    ]
    if summary["trained_on"]:
        lines.append(f"beware: {summary['trained_on']:,} of these rows stand in the run's own training table")
    lines += [f"ranking: {output}", f"page: {page}", f"train without the flagged rows: --data.drop {output}"]
    Console().print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
