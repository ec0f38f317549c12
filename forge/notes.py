"""What those who transcribed a book wrote into it: credits before its first page, notes in it and behind it."""

import re

HEAD_CHARS = 5_000  # credits are looked for in no more of a book
LONGEST_CREDIT = 12  # lines; more is no credit
TAIL_SHARE, TAIL_CHARS = 0.15, 20_000  # notes behind the book are in no more of it
NOTE_CHARS = 3_000  # of a note in brackets

PARAGRAPH = re.compile(r"[^\n]*\S[^\n]*(?:\n[^\n]*\S[^\n]*)*")  # lines of blanks are between two, as empty ones
BLANK_LINES = re.compile(r"\A(?:[ \t]*\n)+")
TRANSCRIBER = re.compile(r"transcriber", re.IGNORECASE)
CREDIT = re.compile(
    r"^\W*(?:"
    r"(?:produced|prepared|transcribed|scanned|digitized|digitised|proofed|proofread|typed|created|submitted) (?:and \w+ )?by\b"
    r"|(?:scanning|proofing|transcription) (?:and \w+ )?by\b"
    r"|(?:this )?(?:project gutenberg )?(?:e-?text|e-?book|html version|html file|text file)s? "
    r"(?:was |were |is |edition |version )?(?:first )?(?:prepared|produced|transcribed|scanned|created|typed|converted|based|by)\b"
    r"|html version by\b|credits ?:|(?:last |most recently )?updated ?:|and the online distributed proofread"
    r"|note: (?:project gutenberg|images of the original)|(?:the )?project gutenberg(?:'s|’s)? (?:e-?text|e-?book|edition)"
    r"|\[?(?:e-?text|e-?book) #?\d+\]?|file produced from|\(?this (?:file|book) was produced from"
    r")",
    re.IGNORECASE,
)
NOTE = r"transcriber(?:'s|’s|s'|s’|s)?[ \t]+(?:end[ \t]?)?notes?\b"
IN_BRACKETS = re.compile(rf"[ \t]*\[\W{{0,3}}{NOTE}(?:[^\[\]]|\[[^\[\]]*\]){{0,{NOTE_CHARS}}}\][ \t]*", re.IGNORECASE)
IN_BOX = re.compile(rf"^[ \t]*[|*][^\n]*{NOTE}", re.IGNORECASE | re.MULTILINE)
HEADING = re.compile(rf"^[^\w\n\[]*{NOTE}[^\n]*$", re.IGNORECASE | re.MULTILINE)
GAP = re.compile(r"\n[ \t]*\n[ \t]*\n[ \t]*\n")  # three blank lines or more: the next part of a book


def without_notes(text: str) -> str:
    """The narrative, from its first line to its last."""
    if TRANSCRIBER.search(text):
        text = _without_headed(_without_boxed(IN_BRACKETS.sub("", text)))
    return BLANK_LINES.sub("", _without_credits(text)).rstrip()


def _without_boxed(text: str) -> str:
    """Without notes in a box of `|`, `+---+` or stars."""
    parts, at = [], 0
    for found in IN_BOX.finditer(text):
        if found.start() < at:
            continue
        start = found.start()
        while (
            (above := text.rfind("\n", 0, max(0, start - 1)) + 1) < start and above >= at and _boxed(text[above:start])
        ):
            start = above
        parts.append(text[at:start])
        at = found.end()
        while (end := text.find("\n", at)) >= 0 and _boxed(text[end + 1 : end + 80]):
            at = end + 1
        at = end if end >= 0 else len(text)
    return "".join([*parts, text[at:]])


def _boxed(line: str) -> bool:
    return line.lstrip(" \t")[:1] in ("|", "+", "*")


def _without_headed(text: str) -> str:
    """Without notes under a heading: behind the book all to its end, elsewhere up to the next part of the book."""
    parts, at = [], 0
    for found in HEADING.finditer(text):
        if found.start() < at:
            continue
        parts.append(text[at : found.start()])
        left = len(text) - found.start()
        if left <= min(TAIL_CHARS, TAIL_SHARE * len(text)):
            at = len(text)
            break
        gap = GAP.search(text, found.end(), found.end() + NOTE_CHARS)
        paragraph = PARAGRAPH.search(text, found.start())
        assert paragraph is not None
        at = gap.start() if gap else paragraph.end()
    return "".join([*parts, text[at:]])


def _without_credits(text: str) -> str:
    parts, at = [], 0
    for found in PARAGRAPH.finditer(text[:HEAD_CHARS]):
        if CREDIT.match(found[0]) and found[0].count("\n") < LONGEST_CREDIT:
            parts.append(text[at : found.start()])
            at = found.end()
    return "".join([*parts, text[at:]])
