"""What a backbone can take: tokens it has positions for, and words it has embeddings for."""

from transformers import PreTrainedConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from newslora.errors import NewsloraError


def check_length(config: PreTrainedConfig, length: int) -> None:
    """Refuse articles longer than a backbone has positions for.

    Raises:
        NewsloraError: ``length`` tokens, special ones included, are too many.
    """
    rows = getattr(config, "max_position_embeddings", None)
    # RoBERTa's table has two rows more than it has positions.
    most = rows - config.pad_token_id - 1 if config.model_type in ("roberta", "xlm-roberta", "mpnet") else rows
    if most is not None and length > most:
        raise NewsloraError(f"data.max_length: {length} exceeds this backbone's {most} positions; give no more")


def check_vocabulary(config: PreTrainedConfig, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer with words that a backbone has no embedding for.

    Raises:
        NewsloraError: The greatest token is not below the backbone's vocabulary.
    """
    greatest = max(tokenizer.get_vocab().values())
    if greatest >= config.vocab_size:
        raise NewsloraError(
            f"{tokenizer.name_or_path}: its tokenizer has token {greatest}, but the backbone has embeddings "
            f"below {config.vocab_size} alone; take the tokenizer that belongs to it"
        )
