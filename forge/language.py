"""The language of a document, by CLD2 (pycld2, Apache-2.0): tables of character n-grams that are part of the package."""

from collections.abc import Sequence

from adam.contract.errors import ConfigError

LOOKED_AT = 600  # characters, from the middle: beginnings are headings and names. More change the answer for few


class Languages:
    """Keeps documents in `wanted` languages. Raises ConfigError where there is no such language, or no pycld2."""

    def __init__(self, wanted: Sequence[str]) -> None:
        try:
            import pycld2
        except ImportError:
            raise ConfigError(
                "forge.filters.languages needs the package pycld2", "pip install 'adam-trainer[forge]'"
            ) from None
        known = {code for _, code in pycld2.LANGUAGES}
        for code in wanted:
            if code not in known:
                raise ConfigError(
                    f'forge.filters.languages has "{code}": no language that is known', "use codes such as en, de, zh"
                )
        self._wanted = frozenset(wanted)  # and nothing of pycld2: its functions do not travel to other processes

    def language(self, text: str) -> str:
        """The code of a text's main language; `un` where it can't be told."""
        import pycld2

        first = max(0, (len(text) - LOOKED_AT) // 2)
        part = " ".join(text[first : first + LOOKED_AT].split())
        if not part.isprintable():
            part = "".join(char if char.isprintable() else " " for char in part)
        try:
            _, _, found = pycld2.detect(part, bestEffort=True)
        except pycld2.error:  # characters that CLD2 does not know
            return "un"
        return str(found[0][1])

    def find(self, texts: Sequence[str]) -> dict[int, str]:
        """Document -> its language, of those in another than the wanted ones."""
        codes = enumerate(map(self.language, texts))
        return {number: code for number, code in codes if code not in self._wanted}
