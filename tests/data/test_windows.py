import numpy as np
from tests.newsroom import articles, make_tokenizer

from newslora.data.encoding import encode
from newslora.data.windows import encode_windows

TEXTS = [text for _, text in articles(6)]
LONG = " ".join(TEXTS)


def test_a_text_that_fits_is_one_window() -> None:
    tokenizer = make_tokenizer()
    windows, owner = encode_windows(TEXTS, tokenizer, 64)
    plain = encode(TEXTS, tokenizer, 64, cache=False)
    assert owner.tolist() == list(range(6))
    assert np.array_equal(windows.ids, plain.ids)
    assert np.array_equal(windows.offsets, plain.offsets)


def test_windows_cover_every_token_half_over_each_other() -> None:
    tokenizer = make_tokenizer()
    windows, owner = encode_windows([LONG, TEXTS[0]], tokenizer, 22)
    content = encode([LONG], tokenizer, 1000, cache=False).ids[1:-1].tolist()
    pieces = [windows.ids[a:b].tolist() for a, b in zip(windows.offsets[:-1], windows.offsets[1:], strict=True)]
    mine = [piece for piece, text in zip(pieces, owner, strict=True) if text == 0]
    assert len(mine) > 3
    assert all(len(piece) == 22 for piece in mine[:-1])
    assert all((piece[0], piece[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id) for piece in mine)
    assert [token for piece in mine[:1] for token in piece[1:-1]] == content[:20]
    for number, piece in enumerate(mine):
        assert piece[1:-1] == content[10 * number : 10 * number + 20]
    assert 10 * (len(mine) - 1) + 20 >= len(content)
