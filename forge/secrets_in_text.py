"""Keys and tokens that must not be learnt, and text that teaches the wrong thing: told by patterns that ordinary code does not fit.

The forms of the tokens are those that their issuers have published for scanners.
"""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

from adam.forge.batch import LOOKED_AT, Batch
from adam.forge.words import Words, WordSet


class Pattern(NamedTuple):
    """`marks`: a text without any of them is not looked at further."""

    kind: str
    marks: tuple[str, ...]
    form: re.Pattern[str]


def _pattern(kind: str, marks: str, form: str) -> Pattern:
    """`marks` parted by blanks; a blank in one is written as ~."""
    return Pattern(kind, tuple(mark.replace("~", " ") for mark in marks.split()), re.compile(form))


# A private key counts with its body: programs and manuals name the first line alone.
_PEM = (
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:\s|\\n|[\w+/=:,.-]+\s){0,40}?(?:\s|\\n|['\"+ ])*[A-Za-z0-9+/=]{40,}(?:[A-Za-z0-9+/='\"\s]|\\n)*(?:-----END[ A-Z0-9]*-----)?"
)
SECRETS = (
    _pattern("private_key", "-----BEGIN", _PEM),
    _pattern("putty_key", "PuTTY-User-Key-File-", r"PuTTY-User-Key-File-\d: [\s\S]{1,2000}?Private-Lines: \d+"),
    _pattern("age_key", "AGE-SECRET-KEY-1", r"\bAGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}\b"),
    _pattern("aws_access_key", "AKIA ASIA", r"\b(?:AKIA|ASIA)(?![A-Z2-7]{9}EXAMPLE)[A-Z2-7]{16}\b"),
    _pattern("github_token", "ghp_ gho_ ghu_ ghs_ ghr_", r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b"),
    _pattern("github_token", "github_pat_", r"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}\b"),
    _pattern("gitlab_token", "glpat-", r"\bglpat-[\w-]{20,}"),
    _pattern("slack_token", "xoxb- xoxp- xoxa- xoxs- xoxr-", r"\bxox[abprs]-\d{8,}-[\w-]{20,}"),
    _pattern("slack_webhook", "hooks.slack.com", r"hooks\.slack\.com/services/T\w{8,}/B\w{8,}/\w{24}"),
    _pattern("stripe_key", "_live_", r"\b[sr]k_live_[A-Za-z0-9]{24,}"),
    _pattern("google_key", "AIza", r"\bAIza[\w-]{35}(?![\w-])"),
    _pattern("google_oauth", "GOCSPX-", r"\bGOCSPX-[\w-]{28}"),
    _pattern("openai_key", "T3BlbkFJ", r"\bsk-[\w-]{20,}T3BlbkFJ[\w-]{20,}"),
    _pattern("anthropic_key", "sk-ant-", r"\bsk-ant-[a-z]+\d\d-[\w-]{80,}"),
    _pattern("huggingface_token", "hf_", r"\bhf_[A-Za-z]{34}\b"),
    _pattern("npm_token", "npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
    _pattern("pypi_token", "pypi-AgEI", r"\bpypi-AgEI[\w-]{50,}"),
    _pattern("sendgrid_key", "SG.", r"\bSG\.[\w-]{22}\.[\w-]{43}\b"),
    _pattern("azure_key", "AccountKey=", r"\bAccountKey=[A-Za-z0-9+/]{86}=="),
    _pattern("digitalocean_token", "dop_v1_", r"\bdop_v1_[a-f0-9]{64}\b"),
    _pattern("shopify_token", "shpat_ shpss_", r"\bshp(?:at|ss)_[a-f0-9]{32}\b"),
    _pattern("telegram_token", ":AA", r"\b\d{8,10}:AA[\w-]{33}(?![\w-])"),
    _pattern("jwt", "eyJ", r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}"),
)
# What a text with any of them has: one of these words, of these pairs of words, or of these beginnings of words.
FIRST_WORDS = "ghp gho ghu ghs ghr glpat xoxb xoxp xoxa xoxs xoxr sk rk gocspx hf npm pypi sg accountkey shpat shpss"
FIRST_PAIRS = ("private key", "putty user", "age secret", "github pat", "hooks slack", "dop v1")
BEGINS = ("AKIA", "ASIA", "AIza", ":AA", "eyJ")
# In lower case, as the text is that they are looked for in.
POISON = (
    _pattern(
        "refusal", "as~an~ai as~a~large", r"\bas an? (?:large language model|ai (?:language )?(?:model|assistant))\b"
    ),
    _pattern(
        "refusal",
        "i~can't i~cannot",
        r"\bi (?:can't|cannot) (?:fulfill|assist with|comply with) (?:that|this|your) request\b",
    ),
    _pattern(
        "instructions",
        "instructions",
        r"\b(?:ignore|disregard) (?:all |any )?(?:of )?(?:the |your )?(?:previous|prior) instructions\b",
    ),
    _pattern("filler", "lorem~ipsum", r"\blorem ipsum dolor sit amet,? consectetur adipisc"),
    _pattern(
        "web_page", "javascript", r"\b(?:please )?(?:enable|turn on) javascript (?:to|in your browser|and cookies)\b"
    ),
    _pattern("web_page", "cookies", r"\bwe use cookies to (?:improve|enhance|ensure|give)\b"),
)
BROKEN = (
    "\ufffd",
    "â€",
    "Ã©",
    "Ã¼",
    "Ã¤",
    "Ã¶",
)  # what stands where a decoder failed, and what UTF-8 looks like in Latin-1
AROUND = 90  # characters before and behind what was found that are shown
BROKEN_PER_1000 = 2  # … in a thousand characters, from which on a text teaches them


def suspects(batch: Batch) -> Sequence[int]:
    """The documents that are worth a look: all that have a secret, and few others."""
    words, found = batch.words, {number for number, text in enumerate(batch.texts) if len(text) > LOOKED_AT}
    singles, pairs = _marks()
    places = words.places(2)
    for at in (singles.find(words.hashes), places[pairs.find(words.grams(places, 2))]):
        found.update(words.documents(at).tolist())
    found.update(number for number, text in enumerate(batch.texts) if any([begin in text for begin in BEGINS]))
    return sorted(found)


@functools.cache
def _marks() -> tuple[WordSet, WordSet]:
    words = Words([FIRST_WORDS, *FIRST_PAIRS])
    pairs = words.places(2)
    return WordSet(words.hashes[: words.bounds[1]]), WordSet(words.grams(pairs[pairs >= words.bounds[1]], 2))


def secret_in(text: str) -> tuple[str, str]:
    """(kind of the first secret, the text around it with the secret taken out); empty: there is none."""
    match = _first(SECRETS, text)
    if match is None:
        return "", ""
    clean = redacted(text)
    at = clean.index(f"<{match[0]}>")
    return match[0], clean[max(0, at - AROUND) : at + AROUND]


def redacted(text: str) -> str:
    """The text with each secret replaced by its kind: examples are kept for people, secrets are not."""
    for kind, marks, form in SECRETS:
        if any(mark in text for mark in marks):
            text = form.sub(f"<{kind}>", text)
    return text


def poison_in(text: str) -> tuple[str, str]:
    """(kind of what poisons a text, the text around it); empty: nothing does."""
    lower = text.lower()
    match = _first(POISON, lower)
    if match is not None:
        kind, found = match
        return kind, lower[max(0, found.start() - AROUND) : found.end() + AROUND]
    if not text.isascii() and sum(map(text.count, BROKEN)) * 1000 > BROKEN_PER_1000 * len(text):
        return "broken_encoding", ""
    return "", ""


def _first(patterns: tuple[Pattern, ...], text: str) -> tuple[str, re.Match[str]] | None:
    for kind, marks, form in patterns:
        if any(mark in text for mark in marks) and (found := form.search(text)):
            return kind, found
    return None
