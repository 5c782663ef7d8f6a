from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from newslora import NewsloraError
from newslora.data import encoding
from newslora.data.cache import cache_folder
from newslora.data.encoding import Encoded, encode, encode_and_count

TEXTS = [
    "The cup final",
    "",
    "A long border agreement after long talks in Lagos and beyond " * 4,
    "<s> rate </s>",
    "é中😀",
]


def expected(text: str, tokenizer: Any, max_length: int | None) -> list[int]:
    settings = {"padding": False, "truncation": max_length is not None, "max_length": max_length}
    return tokenizer(text, **settings)["input_ids"]  # type: ignore[no-any-return]


def check(texts: list[str], tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
    encoded, counts = encode_and_count(texts, tokenizer, max_length)
    assert (encoded.ids.dtype, encoded.offsets.dtype, len(encoded)) == (np.int32, np.int64, len(texts))
    for row, text in enumerate(texts):
        ids = encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]].tolist()
        assert ids == expected(text, tokenizer, max_length)
        assert counts[row] == len(expected(text, tokenizer, None))
    assert encoded.lengths.tolist() == np.minimum(counts, max_length).tolist()


@pytest.mark.parametrize("max_length", [4, 6, 11, 128, 4000])
def test_tokens_are_the_tokenizers_own_and_counts_those_before_the_cut(
    tokenizer: PreTrainedTokenizerFast, max_length: int
) -> None:
    check(TEXTS, tokenizer, max_length)
    check([], tokenizer, max_length)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6), max_length=st.integers(4, 12))
def test_any_text(tokenizer: PreTrainedTokenizerFast, texts: list[str], max_length: int) -> None:
    check(texts, tokenizer, max_length)


def test_batches_leave_no_seams(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, counts = encode_and_count(TEXTS, tokenizer, 8, cache=False)
    monkeypatch.setattr(encoding, "_BATCH", 2)
    parts, part_counts = encode_and_count(TEXTS, tokenizer, 8, cache=False)
    assert np.array_equal(whole.ids, parts.ids)
    assert np.array_equal(whole.offsets, parts.offsets)
    assert np.array_equal(counts, part_counts)


def test_articles_are_taken_in_the_order_asked_for(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = encode(TEXTS, tokenizer, 8)
    taken = encoded.take(np.array([3, 0, 3]))
    again = encode([TEXTS[3], TEXTS[0], TEXTS[3]], tokenizer, 8)
    assert np.array_equal(taken.ids, again.ids)
    assert np.array_equal(taken.offsets, again.offsets)
    assert len(encoded.take(np.zeros(0, dtype=np.int64))) == 0


def test_the_cache_is_used_and_knows_what_it_was_made_from(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode(TEXTS, tokenizer, 8)
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "_tokenise", lambda *_: pytest.fail("tokenised twice"))
        again = encode(TEXTS, tokenizer, 8)
    assert np.array_equal(first.ids, again.ids)
    for texts, max_length in ((TEXTS[:-1], 8), (["The cup finalA", *TEXTS[2:]], 8), (TEXTS, 9)):
        encode(texts, tokenizer, max_length)
    assert len(list(cache_folder().iterdir())) == 4
    tokenizer.add_tokens(["border agreement"])
    assert len(encode(TEXTS, tokenizer, 128)) == len(TEXTS)
    encode(TEXTS, tokenizer, 8)
    assert len(list(cache_folder().iterdir())) == 6


def test_texts_side_by_side_are_told_from_one_text(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(encode(["ab", "c"], tokenizer, 8)) == 2
    assert not np.array_equal(encode(["ab", "c"], tokenizer, 8).offsets, encode(["a", "bc"], tokenizer, 8).offsets[:2])
    assert len(list(cache_folder().iterdir())) == 2


def test_a_tokenizers_own_truncation_leaves_the_key_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    encode(TEXTS, tokenizer, 8)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.no_padding()
    encode(TEXTS, tokenizer, 8)
    assert len(list(cache_folder().iterdir())) == 1


def test_nothing_is_stored_without_the_cache(tokenizer: PreTrainedTokenizerFast) -> None:
    encode(TEXTS, tokenizer, 8, cache=False)
    assert not cache_folder().exists()


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(NewsloraError, match="has no fast tokenizer"):
        encode(["x"], PreTrainedTokenizerBase(name_or_path="odd/backbone"), 8)


def test_lengths_follow_from_the_offsets() -> None:
    encoded = Encoded(np.arange(5, dtype=np.int32), np.array([0, 2, 5]))
    assert encoded.lengths.tolist() == [2, 3]
    assert len(encoded) == 2
