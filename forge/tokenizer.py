"""The tokenizer: a byte-level BPE learnt from the train split, or one that is given."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from adam.contract.config_forge import Forge
from adam.contract.errors import DataError
from adam.forge.documents import ShardRecord

END_OF_TEXT = "<|endoftext|>"
# Names that everybody knows, and where their tokenizer.json lies on the Hub.
BY_NAME = {"gpt2": "openai-community/gpt2", "gpt-neox": "EleutherAI/gpt-neox-20b"}
KNOWN_MARKS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
# Of the standard library 5, 10, 20 and 31 MB give 3.24, 3.28, 3.28 and 3.28 bytes a token (4,096 ids); 10 MB take 4 s on a core.
LEARN_FROM_BYTES = 10_000_000
BYTE_FALLBACK = 6  # characters of "<0x0A>", a token that stands for one byte


def learn(texts: Iterable[str], config: Forge, marks: tuple[str, ...] = ()) -> Tokenizer:
    """A byte-level BPE with `vocab_size` ids (fewer where the text has no more pairs); the same for the same texts.

    The last ids are those of `marks`; nothing is learnt from how they are written, nor across them.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(marks),
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without(texts, marks), trainer)
    return tokenizer


def _without(texts: Iterable[str], marks: tuple[str, ...]) -> Iterable[str]:
    if not marks:
        return texts
    written = re.compile("|".join(map(re.escape, marks)))
    return (part for text in texts for part in written.split(text) if part)


def register(tokenizer: Tokenizer, marks: tuple[str, ...]) -> dict[str, int]:
    """Give each mark an id of its own; marks -> ids. Those that the tokenizer knows already keep theirs."""
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    vocabulary = tokenizer.get_vocab()
    return {mark: vocabulary[mark] for mark in marks}


def sample(records: Iterator[ShardRecord], have_bytes: int, tick: Callable[[], object]) -> Iterator[str]:
    """The texts to learn from: about LEARN_FROM_BYTES of `have_bytes`, chosen by hash so that every source has its share.

    By the half of the hash that does not decide the split. `tick` is called for each record.
    """
    share = min(1.0, LEARN_FROM_BYTES / max(1, have_bytes))
    for record in records:
        tick()
        if int(record.id[16:], 16) < share * 2**64:
            yield record.text


def given(name: str, run: Path) -> tuple[Tokenizer, str]:
    """(tokenizer, where it is from) of a tokenizer.json, a folder with one, a name of BY_NAME, or one on the Hub (with @REVISION).

    Raises DataError where there is none, or it can't be read.
    """
    path = Path(run, name).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
    origin = str(path)
    if not path.exists():
        path, origin = _from_hub(BY_NAME.get(name, name))
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  (the library raises plain Exception for every bad file)
        raise DataError(f"{path} is no tokenizer: {error}", "name a tokenizer.json in forge.tokenizer") from None
    # Left over from other uses in published files; all would change documents silently, dropout each time in another way.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    return tokenizer, origin


def _from_hub(name: str) -> tuple[Path, str]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        path = Path(hf_hub_download(repository, "tokenizer.json", revision=revision or None))
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
    return path, f"{repository}@{path.parent.name}"


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id of the mark before each document. Raises DataError where the tokenizer has none that is known."""
    for mark in KNOWN_MARKS:
        if (number := tokenizer.token_to_id(mark)) is not None:
            return int(number)
    raise DataError(
        f"the tokenizer has none of the marks {' '.join(KNOWN_MARKS)}", "use a tokenizer with an end-of-text token"
    )


def take_marks_as_text(tokenizer: Tokenizer, mark: int) -> None:
    """Encode marks that are written out in a document like other text: they must not look like the end of the document, or like masks."""
    tokenizer.add_special_tokens([tokenizer.id_to_token(mark)])
    tokenizer.encode_special_tokens = True


def ids_of(tokenizer: Tokenizer) -> int:
    """One more than the largest id: the rows that a model needs."""
    return 1 + max(tokenizer.get_vocab().values())


def bytes_of_ids(
    tokenizer: Tokenizer, mark: int, marks: Mapping[str, int] = MappingProxyType({})
) -> npt.NDArray[np.uint16]:
    """For each id the bytes of text that it stands for, 0 for the mark and other special ones that are not in `marks`.

    Byte-level vocabularies write each byte as one character, and the sum over a document is its size. Of others it is what the
    decoder gives for the single id, which may differ by the blanks that a tokenizer adds or drops.
    """
    table = np.zeros(ids_of(tokenizer), dtype="<u2")
    added = tokenizer.get_added_tokens_decoder()
    byte_level = '"ByteLevel"' in json.dumps(json.loads(tokenizer.to_str())["decoder"])
    for token, number in tokenizer.get_vocab().items():
        if number in added:
            table[number] = 0 if added[number].special else len(token.encode())
        elif byte_level:
            table[number] = len(token)
        elif token.startswith("<0x") and len(token) == BYTE_FALLBACK:
            table[number] = 1
        else:
            table[number] = len(tokenizer.decode([number]).encode())
    table[mark] = 0
    for text, number in marks.items():
        table[number] = len(text.encode())
    return table
