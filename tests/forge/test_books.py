"""Layouts that Project Gutenberg's files have had since 1991: the narrative is left, whole, and nothing else."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam.contract.config_forge import Source
from adam.forge.books import NO_NARRATIVE, open_book, read_book
from adam.forge.documents import Document
from adam.forge.parts import opener_of, parts

TITLE, AUTHOR = "The Miller of Dunmore", "Agnes Harrow"


def chapter(number: int) -> str:
    rng = random.Random(number)
    words = [
        "the",
        "miller",
        "river",
        "said",
        "night",
        "old",
        "wheel",
        "turned",
        "and",
        "she",
        "letter",
        "produced",
        "by",
    ]
    paragraphs = [" ".join(rng.choice(words) for _ in range(70)) + "." for _ in range(6)]
    return f"CHAPTER {number}\n\n" + "\n\n".join(f'"Who goes there?"\n{text}' for text in paragraphs)


NARRATIVE = (
    "THE MILLER OF DUNMORE\n\nby Agnes Harrow\n\n\n\n" + "\n\n\n\n".join(map(chapter, range(1, 13))) + "\n\nTHE END"
)

LICENCE = """Updated editions will replace the previous one--the old editions
will be renamed.

Terms of use of Project Gutenberg-tm electronic works: fees, refunds, donations.

Most people start at our site which has the main search facility: www.gutenberg.org
"""

NEW = f"""\ufeffThe Project Gutenberg eBook of {TITLE}

This ebook is for the use of anyone anywhere. You may copy it under the terms of the
Project Gutenberg License included with this ebook or online at www.gutenberg.org.

Title: {TITLE}

Author: {AUTHOR}

Release date: October 18, 2022 [eBook #99999]
                Most recently updated: July 6, 2023

Language: English

Credits: A Volunteer and the Online Distributed Proofreading Team


*** START OF THE PROJECT GUTENBERG EBOOK THE MILLER OF DUNMORE ***




{NARRATIVE}




*** END OF THE PROJECT GUTENBERG EBOOK THE MILLER OF DUNMORE ***

{LICENCE}"""

MIDDLE = f"""The Project Gutenberg EBook of {TITLE}, by {AUTHOR}

This eBook is for the use of anyone anywhere at no cost.

Title: The Miller
       of Dunmore

Author: {AUTHOR}

Release Date: January 13, 2004 [EBook #99999]

Language: English

Character set encoding: ISO-8859-1

*** START OF THIS PROJECT GUTENBERG EBOOK THE MILLER OF
DUNMORE ***




Produced by Some Body, Another One and the Online Distributed
Proofreading Team at http://www.pgdp.net (This file was produced from
images generously made available by The Internet Archive)




[Transcriber's Note: Spelling [sic] has been kept as it was printed.
A few commas were added.]




{NARRATIVE}




Transcriber's Notes:

Page 12: "teh" changed to "the".

Page 99: full stop added.




End of the Project Gutenberg EBook of {TITLE}, by {AUTHOR}

*** END OF THIS PROJECT GUTENBERG EBOOK THE MILLER OF DUNMORE ***

***** This file should be named 99999.txt or 99999.zip *****

{LICENCE}"""

SMALL_PRINT = """***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is this "Small Print!" statement here? You know: lawyers.

This etext is a "public domain" work distributed by the Project Gutenberg
Association.

*WHAT IF YOU *WANT* TO SEND MONEY EVEN IF YOU DON'T HAVE TO?*
Money should be paid to the Association.

*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*
"""

OLD = f"""*****The Project Gutenberg Etext of {TITLE}, by {AUTHOR}*****
#3 in our series by {AUTHOR}

Please take a look at the important information in this header.
We encourage you to keep this file on your own disk.

**Welcome To The World of Free Plain Vanilla Electronic Texts**

*These Etexts Prepared By Hundreds of Volunteers and Donations*

{TITLE}

by {AUTHOR}

January, 1996  [Etext #999]

*****This file should be named millr10.txt or millr10.zip******

We produce about two million dollars for each hour we work.

{SMALL_PRINT}




This etext was prepared by A. Volunteer, Somewhere, CA.





{NARRATIVE}





End of The Project Gutenberg Etext of {TITLE}, by {AUTHOR}
"""

SMALL_PRINT_BEHIND = f"""The Project Gutenberg EBook of {TITLE}, by {AUTHOR}
(#3 in our series by {AUTHOR})

Copyright laws are changing all over the world.

This header should be the first thing seen when viewing this Project
Gutenberg file.  Please do not remove it.

**Welcome To The World of Free Plain Vanilla Electronic Texts**

Title: {TITLE}

Author: {AUTHOR}

Release Date: March, 2004  [EBook #5999]
[Yes, we are more than one year ahead of schedule]
[This file was first posted on June 21, 2002]

Edition: 10

Language: English

*** START OF THE PROJECT GUTENBERG EBOOK, THE MILLER OF DUNMORE ***




This eBook was produced by A. Volunteer <volunteer@example.org>




{NARRATIVE}




*** END OF THE PROJECT GUTENBERG EBOOK, THE MILLER OF DUNMORE ***

This file should be named millr10.txt or millr10.zip

Corrected EDITIONS of our eBooks get a new NUMBER, millr11.txt

**The Legal Small Print**

(Three Pages)

{SMALL_PRINT.replace("*END*THE SMALL PRINT!", "*END THE SMALL PRINT!")}

"""

LAYOUTS = {
    "new": NEW,
    "middle": MIDDLE,
    "old": OLD,
    "small print behind": SMALL_PRINT_BEHIND,
    "crlf once": NEW.replace("\n", " \n"),
    "no end": NEW[: NEW.index("*** END")],
    "no stars at the end": MIDDLE.replace("*** END OF THIS PROJECT GUTENBERG EBOOK THE MILLER OF DUNMORE ***\n", ""),
    "licence alone at the end": MIDDLE[: MIDDLE.index("\n\n\n\nTranscriber")] + f"\n\n\n\n{LICENCE}",
    "full licence": NEW.replace(
        "Updated editions will replace the previous one", "START: FULL LICENSE\n\nTHE FULL PROJECT GUTENBERG LICENSE\n"
    ),
    "old, no end": OLD[: OLD.index("\n\n\n\n\nEnd of")],
    "no beginning": MIDDLE.replace("*** START OF THIS PROJECT GUTENBERG EBOOK THE MILLER OF\nDUNMORE ***\n", ""),
    "no marks at all": SMALL_PRINT_BEHIND[: SMALL_PRINT_BEHIND.index("*** START")] + "\n\n\n\n" + NARRATIVE,
    "e-text prepared": MIDDLE.replace("Produced by", "E-text prepared by"),
    "boxed note": NEW.replace(
        "\n\n\n\nTHE MILLER", "\n\n+-----------+\n| Transcriber's Note: |\n|   |\n| Kept as it is. |\n+-----------+\n\n\n\nTHE MILLER"
    ),
    "note under a heading": NEW.replace(
        "\n\n\n\nTHE MILLER", "\n\nTRANSCRIBER'S NOTES\n\nWords are kept.\n\nSo are commas.\n\n\n\n\nTHE MILLER"
    ),
    "notes in parts behind the book": MIDDLE.replace(
        "Page 99", "\n\n\n\nThe following were changed:\n\n\n\nPage 99"
    ),
    "curly note": MIDDLE.replace("Transcriber's", "Transcriber’s"),
    "produced by in the header": NEW.replace("Credits:", "Produced by:"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_narrative_is_left_and_nothing_else(name) -> None:
    book = read_book(LAYOUTS[name])
    wanted = NARRATIVE if name != "crlf once" else NARRATIVE.replace("\n", " \n")
    assert book.narrative == wanted
    assert (book.title, book.author) == (TITLE, AUTHOR)


def test_old_first_lines_name_the_book() -> None:
    first = "The Project Gutenberg Etext of A Long Tale of Two\nRivers, by Ann Orr*****\n\n"
    assert read_book(first + SMALL_PRINT + NARRATIVE)[1:] == ("A Long Tale of Two Rivers", "Ann Orr")
    assert read_book("Project Gutenberg's The Heath, by Ann Orr\n\n" + SMALL_PRINT + NARRATIVE)[1:] == (
        "The Heath",
        "Ann Orr",
    )
    release = "This is the March 1992 Project Gutenberg release of: \n \nThe Heath by Ann Orr \n \n"
    assert read_book(release + NARRATIVE) == ("The Heath by Ann Orr \n \n" + NARRATIVE, "The Heath", "Ann Orr")
    assert read_book("The Project Gutenberg Etext of THE HEATH\n\n\n\n" + NARRATIVE) == (NARRATIVE, "THE HEATH", "")


def test_lines_of_blanks_are_between_paragraphs() -> None:
    """As in the release of Paradise Lost: a header found by paragraphs would take the poem with it."""
    head = "This is a Project Gutenberg release of:\n \nThe Heath by Ann Orr\n \nThis etext is old.\n \n \n"
    assert read_book(head + NARRATIVE.replace("\n\n", "\n \n")).narrative == NARRATIVE.replace("\n\n", "\n \n")


def test_a_header_without_a_mark_does_not_go_on_in_the_book() -> None:
    """Where somebody in it speaks of electronic texts, too."""
    talk = NARRATIVE.replace("CHAPTER 2\n", "CHAPTER 2\n\nThis etext is a workshop's, they said.\n")
    assert read_book(f"The Project Gutenberg Etext of THE HEATH\n\n\n\n{talk}").narrative == talk


def test_small_print_behind_a_short_book_is_no_header() -> None:
    short = chapter(1)
    assert read_book(f"The Project Gutenberg Etext of THE HEATH\n\n\n{short}\n\n\n{SMALL_PRINT}").narrative == short


def test_volumes_in_one_file_are_all_kept() -> None:
    two = NEW + "\n\n" + MIDDLE
    assert read_book(two).narrative == f"{NARRATIVE}\n\n\n{NARRATIVE}"
    long = "\n\n\n\n".join(map(chapter, range(120)))
    combined = NEW.replace(
        NARRATIVE, f"{NARRATIVE}\n\n\nEnd of Project Gutenberg's Volume I, by {AUTHOR}\n\n\n\nVOLUME II\n\n{long}"
    )
    narrative = read_book(combined).narrative
    assert narrative.startswith(NARRATIVE)
    assert narrative.endswith(long.strip())
    assert "Gutenberg" not in narrative
    spoken = combined.replace("VOLUME II\n", "VOLUME II of this Project Gutenberg edition\n")
    assert read_book(spoken).narrative.endswith(long.strip())


def test_what_only_looks_like_a_note_or_credit_stays() -> None:
    text = NARRATIVE.replace(
        "CHAPTER 5",
        "CHAPTER 5\n\nProduced by the miller, the flour was white.\n\nThe transcriber's notes lay on the table. The end of it.",
    )
    assert read_book(NEW.replace(NARRATIVE, text)).narrative == text


def test_a_first_page_that_begins_like_a_credit_stays() -> None:
    text = "Produced by the mill, the flour\n" + "went down the river\n" * 20 + "\n" + NARRATIVE
    assert read_book(NEW.replace(NARRATIVE, text)).narrative == text


def test_what_is_no_book_of_gutenberg_stays() -> None:
    assert read_book(NARRATIVE) == (NARRATIVE, "", "")


def opened(text: str, **known: str) -> list[Document]:
    return list(parts(Document(text, meta=dict(known)), opener_of(Source(path="x", text="books"))))


def test_the_parts_of_a_book_are_one_group_with_title_and_author() -> None:
    long = "\n\n\n\n".join(map(chapter, range(60)))
    found = opened(NEW.replace(NARRATIVE, long), url="u")
    assert len(found) > 3
    assert "".join(part.text for part in found) == long
    assert {part.group for part in found} == {"the miller of dunmore\nagnes harrow"}
    assert all(part.meta == {"url": "u", "title": TITLE, "author": AUTHOR} for part in found)


def test_columns_of_a_record_know_better_than_a_header() -> None:
    (found,) = opened(NEW, title="The Miller", author="A. Harrow")
    assert found.meta == {"title": "The Miller", "author": "A. Harrow"}
    assert found.group == "the miller\na. harrow"


def test_editions_are_one_group_and_nameless_books_are_not() -> None:
    assert opened(OLD)[0].group == opened(NEW)[0].group
    one, other = opened(chapter(1)), opened(chapter(2))
    assert one[0].group != other[0].group != ""


def test_a_file_without_a_book_is_dropped_with_a_reason() -> None:
    (found,) = opened(NEW.replace(NARRATIVE, ""))
    assert found.dropped == NO_NARRATIVE
    assert found.example.startswith("\ufeffThe Project Gutenberg eBook")


PIECES = [
    "*** START OF THE PROJECT GUTENBERG EBOOK X ***", "*** END OF THIS PROJECT GUTENBERG EBOOK X ***", "*END*THE SMALL PRINT!*END*",
    "***START**THE SMALL PRINT!", "End of Project Gutenberg's X", "Updated editions will replace the previous one", "Title: T",
    "[Transcriber's Note: [a] b", "]", "| Transcriber's note |", "+---+", "TRANSCRIBER'S NOTES", "Produced by X", "words",
    "\n", "\n\n\n", " ",
]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=40), st.sampled_from(["\n", "\n\n", ""]))
def test_any_text_gives_parts_of_itself_in_order(found, between) -> None:
    text = between.join(found)
    left = iter(text)
    assert all(character in left for character in read_book(text).narrative if not character.isspace())
    (document,) = open_book(Document(text))
    assert bool(document.dropped) == (not document.text)


@pytest.mark.parametrize(
    "line", ["| x |\n", "[Transcriber's Note: \n", "Gutenberg \n", "* End of Project Gutenberg's\n", "   \n", "x\n"]
)
def test_time_grows_with_the_text_and_no_faster(line) -> None:
    """By the clock of this thread: other programs do not count."""

    def seconds(count: int) -> float:
        text = "| Transcriber's Note |\n" + line * count
        began = time.thread_time()
        read_book(text)
        return time.thread_time() - began

    seconds(1000)
    assert seconds(32_000) < 40 * max(seconds(4_000), 0.005)
