import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scale() -> Any:
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["scale"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_documents_figures_are_the_scripts(scale: Any) -> None:
    measured = scale.rates(ROOT / "benchmarks" / "measured" / "predict_speed.json", scale.Assumed.tokens)
    assert scale.text(measured, scale.Assumed()) in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def test_machines_that_never_fail_do_the_work_in_rounds(scale: Any) -> None:
    sure = scale.Assumed(articles=1000, part=10, lost=0.0, slow=0.0, start=5.0)
    found = scale.simulate(2.0, 8, sure)
    assert found.hours * 3600 == pytest.approx(5 + 13 * 5)  # 100 parts over 8 machines, 5 seconds each
    assert found.lost == 0


def test_losses_and_slow_machines_cost_time_and_lose_no_part(scale: Any) -> None:
    sure = scale.Assumed(articles=20_000, part=10, lost=0.0, slow=0.0, start=5.0, notice=5.0)
    best = scale.simulate(2.0, 8, sure)
    lossy = scale.simulate(2.0, 8, replace(sure, lost=60.0))
    assert lossy.lost > 50
    assert lossy.hours > best.hours
    assert lossy.wasted > best.wasted


def test_late_parts_tried_again_end_no_later(scale: Any) -> None:
    uneven = scale.Assumed(articles=2000, part=100, lost=0.0, slow=1.0, start=0.0)
    ends = {
        again: [scale.simulate(2.0, 8, uneven, again=again, seed=s).hours for s in range(9)] for again in (True, False)
    }
    assert sum(ends[True]) < sum(ends[False])
