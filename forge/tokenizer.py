"""The tokenizer: a byte-level BPE learnt from the train split, or one that is given."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from adam.contract.config import Forge
from adam.contract.errors import DataError

END_OF_TEXT = "<|endoftext|>"
KNOWN_MARKS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
# Learning takes seconds a 10 MB; more text than this changes few merges.
LEARN_FROM_BYTES = 50_000_000


def learn(texts: Iterator[str], config: Forge) -> Tokenizer:
    """A byte-level BPE with `vocab_size` ids (fewer where the text has no more pairs); the same for the same texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_first(texts, LEARN_FROM_BYTES), trainer)
    return tokenizer


def _first(texts: Iterator[str], limit: int) -> Iterator[str]:
    for text in texts:
        if limit <= 0:
            return
        limit -= len(text)
        yield text


def given(name: str, run: Path) -> tuple[Tokenizer, str]:
    """(tokenizer, where it is from) of a tokenizer.json, a folder with one, or a name on the Hub.

    Raises DataError where there is none, or it can't be read.
    """
    path = Path(run, name).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
    origin = str(path)
    if not path.exists():
        path, origin = _from_hub(name)
    try:
        return Tokenizer.from_file(str(path)), origin
    except Exception as error:  # noqa: BLE001  (the library raises plain Exception for every bad file)
        raise DataError(f"{path} is no tokenizer: {error}", "name a tokenizer.json in forge.tokenizer") from None


def _from_hub(name: str) -> tuple[Path, str]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(hf_hub_download(name, "tokenizer.json"))
    except HFValidationError:
        raise DataError(
            f"no tokenizer at {name}", "name a file, a folder or a Hub repository in forge.tokenizer"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"the tokenizer {name} could not be fetched from the Hub: {reason}", "check the name and the network"
        ) from None
    # snapshots/REVISION/tokenizer.json in the Hub's cache
    return path, f"{name}@{path.parent.name}"


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id of the mark before each document. Raises DataError where the tokenizer has none that is known."""
    for mark in KNOWN_MARKS:
        if (number := tokenizer.token_to_id(mark)) is not None:
            return int(number)
    raise DataError(
        f"the tokenizer has none of the marks {' '.join(KNOWN_MARKS)}", "use a tokenizer with an end-of-text token"
    )


def bytes_of_ids(tokenizer: Tokenizer) -> npt.NDArray[np.uint16]:
    """For each id the bytes of text that it stands for, 0 for special ones.

    Byte-level vocabularies write each byte as one character; others are decoded.
    """
    table = np.zeros(tokenizer.get_vocab_size(), dtype="<u2")
    special = {number for number, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    byte_level = set(pre_tokenizers.ByteLevel.alphabet())
    for token, number in tokenizer.get_vocab().items():
        if number in special:
            continue
        plain = set(token) <= byte_level
        table[number] = len(token) if plain else len(tokenizer.decode([number]).encode())
    return table
