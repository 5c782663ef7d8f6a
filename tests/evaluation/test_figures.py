import json
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from newslora.config import RunConfig
from newslora.evaluation import figures
from newslora.evaluation.calibration import reliability_bins, risk_coverage
from newslora.training.run_folder import RunFolder

NAMES = ("World", "Sports", "Business", "Sci/Tech")
MATRIX = [[905, 12, 41, 42], [6, 985, 5, 4], [30, 3, 882, 85], [38, 4, 70, 888]]


def make_run(path: Path, epochs: int = 6, steps: int = 120, best_by: str = "macro_f1") -> RunFolder:
    run = RunFolder.create(path, RunConfig.from_dict({"train": {"best_by": best_by}}))
    rows = [
        {
            "epoch": epoch,
            "train_loss": 0.4 / epoch,
            "train_accuracy": 0.97 - 0.1 / epoch,
            "val_loss": 0.25 + 0.01 * abs(epoch - 3),
            "val_accuracy": 0.93 - 0.05 / epoch,
            "val_macro_f1": 0.93 - 0.05 / epoch - 0.02 * (epoch == epochs),
        }
        for epoch in range(1, epochs + 1)
    ]
    noise = np.random.default_rng(0).normal(scale=0.05, size=steps)
    lines = [
        {
            "step": i + 1,
            "epoch": (i + 1) * epochs / steps,
            "train_loss": 0.2 + 1.2 * np.exp(-i / 12) + noise[i],
            "lr": 1e-3,
        }
        for i in range(steps)
    ]
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.steps_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that the code under test saves."""
    seen: list[Figure] = []
    save = figures.save_figure
    monkeypatch.setattr(figures, "save_figure", lambda figure, stem: (seen.append(figure), save(figure, stem))[1])
    return seen


def texts_of(figure: Figure) -> str:
    figure.canvas.draw()
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_learning_curves_show_the_run(tmp_path: Path, drawn: list[Figure]) -> None:
    run = make_run(tmp_path / "run")
    assert figures.draw_learning_curves(run) == run.figures / "validation_loss.png"
    loss, accuracy = drawn[0].axes[:2]
    by_label = {line.get_label(): line for line in loss.get_lines()}
    assert by_label["validation"].get_ydata() == pytest.approx([row["val_loss"] for row in run.metrics()])
    steps = run.steps()
    assert by_label["training, steps"].get_xdata() == pytest.approx([row["epoch"] for row in steps])
    assert by_label["training, steps"].get_ydata() == pytest.approx([row["train_loss"] for row in steps])
    assert [line.get_ydata()[0] for line in accuracy.get_lines()][:2] == pytest.approx([0.87, 0.88])
    words = texts_of(drawn[0])
    assert all(part in words for part in ("nats per article", "share of articles", "epoch", "step", "best epoch (5)"))


def test_best_epoch_by_loss(tmp_path: Path, drawn: list[Figure]) -> None:
    figures.draw_learning_curves(make_run(tmp_path / "run", best_by="loss"))
    assert "best epoch (3)" in texts_of(drawn[0])


def test_learning_curves_of_one_epoch_without_steps(tmp_path: Path, drawn: list[Figure]) -> None:
    run = make_run(tmp_path / "run", epochs=1)
    run.steps_file.unlink()
    figures.draw_learning_curves(run)
    assert "training, steps" not in texts_of(drawn[0])
    assert drawn[0].axes[0].get_lines()[1].get_xdata().tolist() == [1]


def test_confusion_cells_say_count_and_share(tmp_path: Path, drawn: list[Figure]) -> None:
    figures.draw_confusion(MATRIX, NAMES, tmp_path, "Confusion matrix")
    words = texts_of(drawn[0])
    assert "905\n90.5%" in words
    assert "85\n8.5%" in words
    assert all(part in words for part in (*NAMES, "true class (articles)", "predicted class (articles)"))


@pytest.mark.parametrize("share", np.linspace(0, 1, 11))
def test_cell_text_is_readable_on_its_cell(tmp_path: Path, drawn: list[Figure], share: float) -> None:
    figures.draw_confusion([[round(100 * share), round(100 * (1 - share))], [0, 100]], ("a", "b"), tmp_path, "t")
    axes = drawn[0].axes[0]
    cell = axes.images[0].cmap(share)[:3]
    text = {"white": (1, 1, 1), "black": (0, 0, 0)}[axes.texts[0].get_color()]
    light, dark = sorted((luminance(cell), luminance(text)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2, level AA


def luminance(colour: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_confusion_of_a_class_without_rows(tmp_path: Path, drawn: list[Figure]) -> None:
    figures.draw_confusion([[3, 0], [0, 0]], ("a", "b"), tmp_path, "t")
    assert "0\n0.0%" in texts_of(drawn[0])


def test_reliability_shows_the_filled_bins(tmp_path: Path, drawn: list[Figure]) -> None:
    probs = np.array([[0.9, 0.1], [0.95, 0.05], [0.6, 0.4]])
    figures.draw_reliability(reliability_bins(probs, np.array([0, 1, 0])), 0.123, tmp_path, "Reliability")
    above, below = drawn[0].axes
    assert len(above.patches) == 3
    assert [bar.get_height() for bar in below.patches if bar.get_height()] == [1, 1, 1]
    assert "ECE 0.123" in texts_of(drawn[0])


def test_files_are_whole_and_the_svg_repeats(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        figures.draw_confusion(MATRIX, NAMES, tmp_path / folder, "Confusion matrix")
    first, second = ((tmp_path / folder / "confusion_matrix.svg").read_bytes() for folder in ("one", "two"))
    assert first == second
    assert b"<dc:date>" not in first
    assert imread(tmp_path / "one" / "confusion_matrix.png").shape[1] == 6 * 160
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == [
        "confusion_matrix.png",
        "confusion_matrix.svg",
    ]


def test_drawing_from_another_thread(tmp_path: Path) -> None:
    thread = Thread(target=figures.draw_confusion, args=(MATRIX, NAMES, tmp_path, "t"))
    thread.start()
    thread.join()
    assert (tmp_path / "confusion_matrix.png").exists()


def test_risk_coverage_shows_the_curve_between_its_bounds(tmp_path: Path, drawn: list[Figure]) -> None:
    generator = np.random.default_rng(0)
    sure = generator.uniform(0.5, 1, size=500)
    figures_ = risk_coverage(np.stack([sure, 1 - sure], axis=1), (generator.random(500) > sure).astype(int))
    assert figures.draw_risk_coverage(figures_, tmp_path, "Abstaining") == tmp_path / "risk_coverage.png"
    chance, curve, least = (line.get_ydata() for line in drawn[0].axes[0].get_lines())
    assert curve.tolist() == [risk for _, risk in figures_["curve"]]
    assert (least <= curve + 1e-12).all()
    assert chance[-1] == curve[-1] == pytest.approx(least[-1])
    words = texts_of(drawn[0])
    assert all(part in words for part in ("share of articles answered", "share of those answered", "Abstaining"))
    assert (tmp_path / "risk_coverage.svg").exists()
