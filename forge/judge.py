"""What the filters say of a document by itself: a pure function of its text and the rules, computed for many at once.

texts ──> length ──> secrets, poison ──> Words ──> quality ──> repetition ──> language ──> evaluation sets ──> MinHash bands
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from adam.contract.config_filters import TextFilters, text_filters
from adam.contract.config_forge import Forge, Source
from adam.contract.errors import ConfigError
from adam.forge.contamination import Evaluation
from adam.forge.documents import EXAMPLE_CHARS, Verdict
from adam.forge.language import Languages
from adam.forge.near import bands_of, rows_of
from adam.forge.quality import Batch, rules
from adam.forge.repetition import repeated_lines, repeated_words
from adam.forge.secrets_in_text import poison_in, secret_in
from adam.forge.words import Words

BATCH_CHARS = 128_000  # looked at together: its arrays stay in a core's cache
LOOKED_AT = 4_000_000  # characters of a document that rules on words look at: memory has an end


class Judge:
    """The rules of each source, ready to be used.

    Raises ConfigError (a rule whose package is not installed), DataError (an evaluation set that can't be read).
    """

    def __init__(self, config: Forge, sources: Mapping[str, Source], root: Path) -> None:
        self._shortest, self._longest = config.min_chars, config.max_chars
        self._rows = rows_of(config.filters.near_duplicates) if config.filters.near_duplicates else 0
        if self._rows:
            _check_rensa()
        files = [root / Path(name).expanduser() for name in config.filters.evaluation]
        evaluation = Evaluation(files, config.filters.evaluation_words) if files else None
        own = {name: text_filters(config.filters, source.filters) for name, source in sources.items()}
        made = {rules: _Rules(rules, evaluation, self._rows) for rules in own.values()}
        self._rules = {name: made[rules] for name, rules in own.items()}
        self.costly = any(chain.any for chain in made.values())  # more than lengths

    def judge(self, documents: Sequence[tuple[str, str]]) -> list[Verdict]:
        """A verdict on each (source, text)."""
        verdicts = [Verdict()] * len(documents)
        waiting: dict[_Rules, list[int]] = {}
        for number, (source, text) in enumerate(documents):
            if len(text) < self._shortest:
                verdicts[number] = Verdict("too_short")
            elif len(text) > self._longest:
                verdicts[number] = Verdict("too_long")
            elif self._rules[source].any:
                waiting.setdefault(self._rules[source], []).append(number)
        for chain, numbers in waiting.items():
            texts = [documents[number][1] for number in numbers]
            for first, behind in _batches(texts):
                for number, verdict in zip(numbers[first:behind], chain.judge(texts[first:behind]), strict=True):
                    verdicts[number] = verdict
        return verdicts


def _check_rensa() -> None:
    try:
        import rensa  # noqa: F401
    except ImportError:
        raise ConfigError(
            "forge.filters.near_duplicates needs the package rensa", "pip install 'adam-trainer[forge]'"
        ) from None


def _batches(texts: Sequence[str]) -> list[tuple[int, int]]:
    """(first, behind) of runs of texts of about BATCH_CHARS."""
    found, first, size = [], 0, 0
    for number, text in enumerate(texts, 1):
        size += len(text)
        if size >= BATCH_CHARS or number == len(texts):
            found.append((first, number))
            first, size = number, 0
    return found


class _Rules:
    """The rules of one source, or of several with the same ones."""

    def __init__(self, config: TextFilters, evaluation: Evaluation | None, rows: int) -> None:
        self._config, self._evaluation, self._rows = config, evaluation, rows
        self._quality = rules(config)
        self._languages = Languages(config.languages) if config.languages else None
        self._on_words = bool(self._quality or config.repetition or evaluation or rows)
        self.any = bool(self._on_words or config.secrets or config.poison or self._languages)

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        found: dict[int, Verdict] = {}
        for number, text in enumerate(texts):
            for wanted, look, reason in (
                (self._config.secrets, secret_in, "secret"),
                (self._config.poison, poison_in, "poison"),
            ):
                if wanted and number not in found and (kind := look(text))[0]:
                    found[number] = _dropped(reason, *kind)
        bands = [b""] * len(texts)
        if self._on_words:
            words = Words([text[:LOOKED_AT] for text in texts])
            self._judge_words(texts, words, found)
            if self._rows:
                hashes, known = bands_of(words, self._rows)
                bands = [row.tobytes() if has else b"" for row, has in zip(hashes.astype("<u8"), known, strict=True)]
        if self._languages is not None:
            left = [number for number in range(len(texts)) if number not in found]
            for at, code in self._languages.find([texts[number] for number in left]).items():
                found[left[at]] = _dropped("language", code, texts[left[at]])
        return [found.get(number, Verdict(bands=bands[number])) for number in range(len(texts))]

    def _judge_words(self, texts: Sequence[str], words: Words, found: dict[int, Verdict]) -> None:
        batch = Batch(texts, words)
        reports = [(rule.reason, rule.find(batch)) for rule in self._quality]
        if scale := self._config.repetition:
            reports += [
                ("repeated_lines", repeated_lines(texts, scale)),
                ("repeated_words", repeated_words(words, scale)),
            ]
        for reason, report in reports:
            for number, detail in report.items():
                found.setdefault(number, _dropped(reason, detail, texts[number]))
        if self._evaluation is not None:
            for number, (detail, text) in self._evaluation.find(texts, words).items():
                found.setdefault(number, _dropped("contaminated", detail, text))


def _dropped(reason: str, detail: str, text: str) -> Verdict:
    return Verdict(reason, f"[{detail}] {text[:EXAMPLE_CHARS]}")
