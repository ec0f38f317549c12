"""How much disk the shards and tokens will take, before anything is written."""

from adam.contract.config_forge import Forge, Phase
from adam.forge.files import COMPRESSED
from adam.forge.sources import Origin, file_status

# A shard is JSON, a little longer than its text; a token stands for about three bytes of it.
SHARD_PER_BYTE, BYTES_PER_TOKEN, DISK_MARGIN = 1.15, 3, 16_000_000
# What a byte of a file becomes, at most, as text of real sets: Wikipedia's Parquet files unpack to 1.8 times their size.
UNPACKED = {".parquet": 2.5, ".pdf": 0.5, **dict.fromkeys(COMPRESSED, 4.0)}
LONG_DOCUMENT = 12_000  # characters; mixes that count documents are reckoned by it: four times Wikipedia's mean
LONG_TOKEN = 6.0


def token_bytes_needed(config: Forge, text_bytes: int) -> int:
    """About how many bytes the tokens of a text take."""
    width = 2 if config.tokenizer == "train" and config.vocab_size <= 1 << 16 else 4
    return text_bytes * width // BYTES_PER_TOKEN


def text_bytes_expected(config: Forge, origins: list[Origin]) -> int:
    """At most about so much text comes of the sources, and of the mixes where these have targets."""
    there = sum(
        file_status(file).size * UNPACKED.get("." + file.name.lower().rpartition(".")[2], 1.0)
        for origin in origins
        for file in origin.files
    )
    if not config.phases:
        return int(there)
    again = max((phase.repeats for phase in config.phases if phase.when_dry == "repeat"), default=0)
    return int(min(there * (1 + again), sum(_most(phase) or there for phase in config.phases)))


def _most(phase: Phase) -> float:
    return phase.target * {"documents": LONG_DOCUMENT, "characters": 1.1, "tokens": LONG_TOKEN}[phase.unit]


def disk_needed(config: Forge, text_bytes: int, done_bytes: int) -> int:
    """For shards of what is left of a text, and tokens of all of it."""
    return int(SHARD_PER_BYTE * max(0, text_bytes - done_bytes)) + token_bytes_needed(config, text_bytes) + DISK_MARGIN
