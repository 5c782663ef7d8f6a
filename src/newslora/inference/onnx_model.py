"""An exported graph run by ONNX Runtime; nothing here needs PyTorch."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from newslora.data.encoding import Encoded
from newslora.errors import NewsloraError
from newslora.model.about import read_about

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FILE_NAME: Final = "model.onnx"
TOKENS: Final = 512
"""Tokens a batch at most, padding included: enough to fill the products, few enough to stay in a core's caches."""
_GPU: Final = "CUDAExecutionProvider"
_SLOWER: Final = {"SkipLayerNormFusion"}  # on a processor its operator takes three times as long as its parts
_CPU: Final = "CPUExecutionProvider"


class OnnxModel:
    """A classifier as an ONNX graph with its tokenizer.

    Args:
        folder: The folder that ``newslora export --format onnx`` (or ``onnx-int8``) wrote.

    Attributes:
        names: Label names, in the order of the logits.
        max_length: Tokens kept of an article, special tokens included.
        tokenizer: The backbone's tokenizer.

    Raises:
        NewsloraError: ONNX Runtime is not installed, or a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        about = read_about(folder)
        self.names, self.max_length = about.names, about.max_length
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        self._padding = self.tokenizer.pad_token_id or 0
        self._file = folder / FILE_NAME
        self._session = _open(self._file, threads())
        self._workers = threads() if self._session.get_providers() == [_CPU] else 1

    def logits(self, encoded: Encoded) -> npt.NDArray[np.float32]:
        """Return float32 [articles, labels], in the articles' order."""
        logits = np.empty((len(encoded), len(self.names)), dtype=np.float32)
        batches = list(padded_batches(encoded.lengths))

        def run(session: "InferenceSession", rows: npt.NDArray[np.int64]) -> None:
            ids, mask = pad(encoded, rows, self._padding)
            logits[rows] = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]

        if len(batches) < self._workers or self._workers == 1:
            for rows in batches:
                run(self._session, rows)
            return logits
        with ThreadPoolExecutor(self._workers) as pool:
            list(pool.map(partial(run, self._narrow), batches))
        return logits

    @cached_property
    def _narrow(self) -> "InferenceSession":
        """A session that runs each batch on the core that asks; cores that need not wait for each other do more."""
        return _open(self._file, 1)


def padded_batches(lengths: npt.NDArray[np.int64], tokens: int = TOKENS) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows of batches of like lengths, longest articles first.

    Args:
        lengths: int64 [articles], tokens of each article.
        tokens: Tokens a batch, padding included; an article longer than this has a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def pad(
    encoded: Encoded, rows: npt.NDArray[np.int64], padding: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the token ids and the mask of rows, each int64 [rows, longest]."""
    lengths = encoded.lengths[rows]
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, padding, dtype=np.int64)
    ids[mask] = encoded.take(rows).ids
    return ids, mask.astype(np.int64)


def threads() -> int:
    """Return the number of processor cores to use: ``OMP_NUM_THREADS`` where it is set, else all that are allowed."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else len(os.sched_getaffinity(0))


def _open(file: Path, cores: int) -> "InferenceSession":
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise NewsloraError(f"{file}: needs ONNX Runtime; install newslora[onnx]") from error
    if not file.is_file():
        raise NewsloraError(f"{file}: no such file; export the run again")
    options: Any = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = cores, 1
    options.enable_mem_pattern = False  # patterns are kept for every shape, and every batch has its own
    options.log_severity_level = 4
    providers = [name for name in (_GPU, _CPU) if name in ort.get_available_providers()]
    try:
        return ort.InferenceSession(str(file), options, providers=providers, disabled_optimizers=_SLOWER)
    except Exception as error:  # ONNX Runtime's errors have no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NewsloraError(f"{file}: cannot be run ({reason}); export the run again") from error
