"""The temperature that travels with an adapter, and the probabilities it gives (Guo et al. 2017)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from newslora.errors import NewsloraError
from newslora.files import read_json, write_text
from newslora.model.seal import seal_file

FILE_NAME = "calibration.json"
_MOST = 1 << 20  # bytes
_ADVICE = 'expected {"temperature": NUMBER}'


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return class probabilities ``softmax(logits / temperature)`` in double precision.

    Args:
        logits: Scores ``[articles, labels]``.
        temperature: Greater than 0; above 1 the probabilities become flatter, the order of the classes never changes.

    Returns:
        float64 ``[articles, labels]``; each row sums to 1.
    """
    scaled: np.ndarray = softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    return scaled


def save_calibration(adapter: Path, temperature: float, record: dict[str, Any]) -> None:
    """Write ``calibration.json`` into the adapter's folder.

    Args:
        adapter: The adapter's folder.
        temperature: The fitted temperature.
        record: What was measured when it was fitted, kept for the reader.
    """
    write_text(adapter / FILE_NAME, json.dumps({"temperature": temperature, **record}, indent=2) + "\n")
    seal_file(adapter, FILE_NAME)


def load_temperature(adapter: Path) -> float:
    """Return the temperature saved with an adapter, 1.0 where none was fitted.

    Raises:
        NewsloraError: The file is not what :func:`save_calibration` writes.
    """
    file = adapter / FILE_NAME
    if not file.exists():
        return 1.0
    try:
        temperature = float(read_json(file, _MOST, _ADVICE)["temperature"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise NewsloraError(f"{file}: holds no temperature; {_ADVICE}") from error
    if not 0.0 < temperature < float("inf"):
        raise NewsloraError(f"{file}: temperature {temperature} is out of range; expected a number above 0")
    return temperature
