from pathlib import Path

import numpy as np
import torch
from tests.newsroom import articles
from transformers import AutoModel

from newslora.data.encoding import encode
from newslora.model.backbone import load_tokenizer
from newslora.model.embedding import embed


def test_an_embedding_is_the_mean_token_of_the_stock_pass_at_length_one(news_backbone: Path) -> None:
    texts = [text for _, text in articles(40)] + [""]
    tokenizer = load_tokenizer(str(news_backbone), None)
    done: list[int] = []
    ours = embed(
        str(news_backbone), None, encode(texts, tokenizer, 64, cache=False), tokenizer.pad_token_id, done.append
    )
    model = AutoModel.from_pretrained(news_backbone).eval()
    with torch.no_grad():
        theirs = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in texts]
    expected = torch.nn.functional.normalize(torch.stack(theirs), dim=1).numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    assert ours.shape == (41, 32) and ours.dtype == np.float32 and sum(done) == 41
