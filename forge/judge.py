"""What the filters say of a document by itself: a pure function of its text and the rules, computed for many at once.

texts ──> length ──> secrets, poison ──> Words ──> quality ──> repetition ──> language ──> evaluation sets ──> MinHash bands
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from adam.contract.config_filters import TextFilters, text_filters
from adam.contract.config_forge import Forge, Source
from adam.contract.errors import ConfigError
from adam.forge.apart import similarity_asked
from adam.forge.batch import Batch
from adam.forge.contamination import Evaluation
from adam.forge.documents import EXAMPLE_CHARS, Verdict
from adam.forge.language import Languages
from adam.forge.near import Shape, bands_of, shape_of, signatures_of
from adam.forge.quality import rules
from adam.forge.repetition import repeated_lines, repeated_words
from adam.forge.secrets_in_text import poison_in, secret_in, suspects

BATCH_CHARS = 128_000  # looked at together: its arrays stay in a core's cache


class Judge:
    """The rules of each source, ready to be used.

    Raises ConfigError (a rule whose package is not installed), DataError (an evaluation set that can't be read).
    """

    def __init__(self, config: Forge, sources: Mapping[str, Source], root: Path) -> None:
        self._shortest, self._longest = config.min_chars, config.max_chars
        near = similarity_asked(config)
        shape = shape_of(near) if near else None
        if shape:
            _check_rensa(config)
        files = [root / Path(name).expanduser() for name in config.filters.evaluation]
        evaluation = Evaluation(files, config.filters.evaluation_words) if files else None
        own = {name: text_filters(config.filters, source.filters) for name, source in sources.items()}
        made = {rules: _Rules(rules, evaluation, shape) for rules in own.values()}
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


def _check_rensa(config: Forge) -> None:
    try:
        import rensa  # noqa: F401
    except ImportError:
        key = "forge.filters.near_duplicates" if config.filters.near_duplicates else "forge.val_apart"
        raise ConfigError(f"{key} needs the package rensa", "pip install 'adam-trainer[forge]'") from None


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

    def __init__(self, config: TextFilters, evaluation: Evaluation | None, shape: Shape | None) -> None:
        self._config, self._evaluation, self._shape = config, evaluation, shape
        self._quality = rules(config)
        self._languages = Languages(config.languages) if config.languages else None
        self._on_words = bool(self._quality or config.repetition or evaluation)
        self.any = bool(self._on_words or shape or config.secrets or config.poison or self._languages)

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        batch, found = Batch(texts), dict[int, Verdict]()
        if self._config.secrets:
            found = _found("secret", {number: secret_in(texts[number]) for number in suspects(batch)})
        if self._config.poison:
            found = _found("poison", dict(enumerate(map(poison_in, texts)))) | found
        if self._on_words:
            self._judge_words(batch, found)
        if self._languages is not None:
            left = [number for number in range(len(texts)) if number not in found]
            for at, code in self._languages.find([texts[number] for number in left]).items():
                found[left[at]] = _dropped("language", code, texts[left[at]])
        good = self._signed(batch) if self._shape else [Verdict()] * len(texts)
        return [found.get(number, verdict) for number, verdict in enumerate(good)]

    def _signed(self, batch: Batch) -> list[Verdict]:
        """Verdicts that have nothing against a document, with what its near duplicates are found by."""
        assert self._shape is not None
        signatures, known = signatures_of(batch.words)
        bands = bands_of(signatures, self._shape).astype("<u8")
        return [
            Verdict(signature=signature.tobytes(), bands=row.tobytes()) if has else Verdict()
            for signature, row, has in zip(signatures, bands, known, strict=True)
        ]

    def _judge_words(self, batch: Batch, found: dict[int, Verdict]) -> None:
        reports = [(rule.reason, rule.find(batch)) for rule in self._quality]
        if scale := self._config.repetition:
            reports.append(("repeated_lines", repeated_lines(batch, scale)))
            reports.append(("repeated_words", repeated_words(batch.words, scale)))
        for reason, report in reports:
            for number, detail in report.items():
                found.setdefault(number, _dropped(reason, detail, batch.texts[number]))
        if self._evaluation is not None:
            for number, (detail, text) in self._evaluation.find(batch.texts, batch.words).items():
                found.setdefault(number, _dropped("contaminated", detail, text))


def _found(reason: str, kinds: Mapping[int, tuple[str, str]]) -> dict[int, Verdict]:
    return {number: _dropped(reason, kind, shown) for number, (kind, shown) in kinds.items() if kind}


def _dropped(reason: str, detail: str, text: str) -> Verdict:
    return Verdict(reason, f"[{detail}] {text[:EXAMPLE_CHARS]}")
