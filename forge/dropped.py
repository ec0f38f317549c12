"""What stays of a document that was dropped: one more for its reason, and of the first ones something to look at."""

from adam.contract.shards import Example
from adam.forge.documents import EXAMPLE_CHARS, Document
from adam.forge.journal import Counts
from adam.forge.secrets_in_text import redacted

EXAMPLES = 3  # of each reason and source


def count_dropped(document: Document, counts: Counts) -> None:
    """Count `document.dropped` in its source's `counts`; secrets in the example are taken out."""
    reason = document.dropped
    counts.dropped[reason] = counts.dropped.get(reason, 0) + 1
    shown = counts.examples.setdefault(reason, [])
    if len(shown) < EXAMPLES:
        # A longer piece is looked through than is shown: a secret that is cut in two is none.
        text = redacted((document.example or document.text)[: 2 * EXAMPLE_CHARS])[:EXAMPLE_CHARS]
        shown.append(Example(document.path, text, document.record))
