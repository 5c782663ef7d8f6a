"""Each guard against silently wrong numbers is taken out of a copy of the source, and its test must then fail."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.soak.ledger import open_ledger

ROOT = Path(__file__).resolve().parents[2]
PYTEST = ("-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-o", "addopts=-q --import-mode=importlib", "-x")


@dataclass(frozen=True)
class Guard:
    """A guard and how to remove it.

    Attributes:
        kind: What would be silently wrong.
        name: What the guard sees to.
        file: Below ``src/newslora``.
        source: The guard's text, once in the file.
        without: What takes its place.
        test: Below ``tests``; it fails without the guard.
    """

    kind: str
    name: str
    file: str
    source: str
    without: str
    test: str


ORDER, MERGED, QUANTISED = "label order", "adapter merged twice", "quantised backbone"
POSITIONS, TIED, LENGTH = "packed positions", "tied weights", "maximal length"
GUARDS = (
    Guard(
        *(ORDER, "classes come in one order, whatever the rows' order", "data/labels.py"),
        *("return tuple(sorted(kinds))", "return tuple(dict.fromkeys(map(str, table.labels or ())))"),
        "data/test_labels.py::test_unknown_names_are_sorted",
    ),
    Guard(
        *(ORDER, "named classes keep their order", "data/labels.py"),
        *("if table.classes:", "if False:"),
        "data/test_labels.py::test_known_names_keep_their_order_even_those_without_rows",
    ),
    Guard(
        *(ORDER, "integers count in all tables from where they count in training", "data/labels.py"),
        *("own if base is None or own is None else base", "own"),
        "data/test_prepare.py::test_integers_mean_in_the_test_table_what_they_mean_in_training",
    ),
    Guard(
        *(ORDER, "every table is read with the classes of the training table", "data/prepare.py"),
        *("_make(table, (names, base), cleaner", "_make(table, (label_names(table), base), cleaner"),
        "data/test_prepare.py::test_a_table_with_fewer_classes_is_read_with_those_of_training",
    ),
    Guard(
        *(ORDER, "the backbone's configuration has the data's order", "model/backbone.py"),
        *("config.id2label = dict(enumerate(names))", "config.id2label = dict(enumerate(sorted(names)))"),
        "model/test_backbone.py::test_labels_and_dropout_reach_the_backbone",
    ),
    Guard(
        *(ORDER, "a configuration that orders its labels in two ways is refused", "model/about.py"),
        *("if numbers != {name: i for i, name in enumerate(names)}:", "if False:"),
        "model/test_about.py::test_two_orders_of_the_labels_are_refused",
    ),
    Guard(
        *(ORDER, "labels are ordered by number, 10 after 2", "model/about.py"),
        *("labels[str(i)] for i in range(len(labels))", "labels[i] for i in sorted(labels)"),
        "model/test_classifier.py::test_more_than_ten_labels_keep_their_order",
    ),
    Guard(
        *(ORDER, "two labels have two names", "model/about.py"),
        *("or len(set(names)) < len(names):", "or False:"),
        "model/test_about.py::test_labels_that_cannot_be_told_apart_are_refused",
    ),
    Guard(
        *(ORDER, "the head has as many outputs as there are labels, and is saved with them", "model/adapter.py"),
        *("    if ours != theirs:\n        odd = min(", "    if False:\n        odd = min("),
        "model/test_adapter.py::test_a_head_of_another_number_of_labels_is_refused",
    ),
    Guard(
        *(ORDER, "a resumed run has the classes that it began with", "training/state.py"),
        *("json.dumps(data.names).encode()", 'b""'),
        "training/test_state.py::test_the_digest_sees_labels_tokens_names_and_validation",
    ),
    Guard(
        *(ORDER, "a teacher's answers are put into the student's order", "training/teaching.py"),
        *("[:, [teacher.names.index(name) for name in names]]", ""),
        "training/test_teaching.py::test_a_student_of_another_backbone_and_order_of_classes",
    ),
    Guard(
        *(MERGED, "an adapter goes on the very weights that it was trained on", "model/frozen.py"),
        *('if backbone.identity(base, revision)["weights_sha256"] != identity.get("weights_sha256"):', "if False:"),
        "model/test_adapter.py::test_an_adapter_is_not_merged_into_its_backbone_twice",
    ),
    Guard(
        *(MERGED, "merging leaves the model as it is", "model/merged.py"),
        *("deepcopy(model.peft)", "model.peft"),
        "model/test_merged.py::test_a_merged_model_is_the_adapted_one",
    ),
    Guard(
        *(MERGED, "a merged model merges to itself", "model/merged.py"),
        *("if isinstance(model, MergedModel):", "if False:"),
        "model/test_merged.py::test_it_is_frozen_and_merges_to_itself",
    ),
    Guard(
        *(QUANTISED, "a backbone whose weights are quantised is refused", "model/backbone.py"),
        *('if getattr(config, "quantization_config", None) is not None:', "if False:"),
        "model/test_limits.py::test_a_quantised_backbone_is_refused",
    ),
    Guard(
        *(POSITIONS, "RoBERTa counts positions from its padding's row", "model/packed.py"),
        *("0 if padding is None else int(padding) + 1", "0"),
        "model/test_packed.py::test_logits_and_every_gradient_equal_the_padded_pass",
    ),
    Guard(
        *(POSITIONS, "each packed article counts its positions anew", "model/packed.py"),
        *(
            "np.concatenate([np.arange(offset, offset + length) for length in lengths])",
            "np.arange(offset, offset + sum(lengths))",
        ),
        "model/test_packed.py::test_an_article_is_the_same_alone_and_in_company",
    ),
    Guard(
        *(TIED, "a weight that two modules share is not merged", "model/merged.py"),
        *("    _refuse_tied(model.plain)\n", ""),
        "model/test_merged.py::test_tied_weights_are_not_merged",
    ),
    Guard(
        *(TIED, "an export that lost a weight is refused", "model/merged.py"),
        *("    if missing:\n", "    if False:\n"),
        "model/test_merged.py::test_an_export_without_its_head_is_refused",
    ),
    Guard(
        *(LENGTH, "training is held to the backbone's positions", "model/classifier.py"),
        *("    check_length(model.config, config.data.max_length)\n", ""),
        "model/test_backbone.py::test_more_tokens_than_positions_are_refused",
    ),
    Guard(
        *(LENGTH, "RoBERTa has two positions fewer than rows", "model/limits.py"),
        *('if config.model_type in ("roberta", "xlm-roberta", "mpnet") else rows', "if False else rows"),
        "model/test_limits.py::test_articles_have_at_most_the_backbones_positions",
    ),
    Guard(
        *(LENGTH, "a loaded adapter is held to the backbone's positions", "model/classifier.py"),
        *("    check_length(model.config, about.max_length)\n", ""),
        "model/test_limits.py::test_a_loaded_adapter_is_held_against_both",
    ),
    Guard(
        *(LENGTH, "a merged export is held to its positions", "model/merged.py"),
        *("    check_length(model.config, about.max_length)\n", ""),
        "model/test_merged.py::test_a_merged_export_is_held_to_its_positions",
    ),
)


def run_tests(source: Path, *tests: str) -> tuple[int, str]:
    """Run tests of the repository on the package below ``source``; return pytest's status and its last line."""
    paths = os.pathsep.join((str(source), str(ROOT)))
    command = [sys.executable, *PYTEST, *(f"tests/{test}" for test in tests)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    return done.returncode, (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]


class Guards:
    """A copy of the source, whose tests pass while all guards are in it."""

    def __init__(self, place: Path) -> None:
        self.source = Path(shutil.copytree(ROOT / "src", place / "src", ignore=shutil.ignore_patterns("*.pyc")))
        show = [sys.executable, "-c", "import newslora; print(newslora.__file__)"]
        found = subprocess.run(
            show,
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(self.source)},
            capture_output=True,
            text=True,
            check=True,
        )
        if not found.stdout.startswith(str(self.source)):
            sys.exit(f"the tests would not run on the copy but on {found.stdout.strip()}")
        status, last = run_tests(self.source, *dict.fromkeys(guard.test for guard in GUARDS))
        if status:
            sys.exit(f"with every guard in place: {last}")

    def trial(self, number: int, _: Random) -> dict[str, Any]:
        guard = GUARDS[number]
        file = self.source / "newslora" / guard.file
        whole = file.read_text(encoding="utf-8")
        if whole.count(guard.source) != 1:
            return {"ok": False, "kind": guard.kind, "what": f"{guard.name}: not once in {guard.file}"}
        try:
            file.write_text(whole.replace(guard.source, guard.without), encoding="utf-8")
            status, last = run_tests(self.source, guard.test)
        finally:
            file.write_text(whole, encoding="utf-8")
        # 1: tests ran, and some failed; any other status is no verdict of a test.
        return {"ok": status == 1, "kind": guard.kind, "what": f"{guard.name} | {guard.file} | {guard.test} | {last}"}


def main() -> int:
    ledger, _ = open_ledger("guards", len(GUARDS))
    with tempfile.TemporaryDirectory() as place:
        status = ledger.run(Guards(Path(place)).trial)
    for _, row in sorted(ledger.done.items()):
        print(f"{'fails without' if row['ok'] else 'NOT TESTED'} | {row['kind']} | {row['what']}")
    return status


if __name__ == "__main__":
    sys.exit(main())
