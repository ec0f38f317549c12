"""Pages of HTML: what is theirs and what is on every page of a site, tables, lists, code."""

import pytest

from adam.forge.readers_html import text_of_html


def text_of(body: str) -> str:
    return text_of_html(f"<!DOCTYPE html><html><head><title>T</title></head><body>{body}</body></html>".encode())[0]


SITE = """<div class="menu" role="navigation"><div>Menu</div><ul><li>Previous topic</ul></div>
<div role="search"><form>Quick search</form></div>{}<div role="contentinfo">Copyright, built with a tool</div>"""


@pytest.mark.parametrize(
    "body",
    ["<p>The text.</p>", "<div role='main'><div>The</div> text.</div><p>Next page</p>", "<main>The text.</main>Links"],
)
def test_what_is_on_every_page_of_a_site_is_no_text(body: str) -> None:
    assert text_of(SITE.format(body)).split() == ["The", "text."]


def test_several_main_parts_are_all_taken_and_an_empty_one_is_not_believed() -> None:
    assert text_of("<main>One.</main> aside <div role=main>Two.</div>") == "One.\n\nTwo."
    assert text_of("<main> </main><p>The text stands elsewhere.</p>") == "The text stands elsewhere."


def test_an_element_that_is_never_closed_takes_nothing_with_it() -> None:
    """A menu without an end would hide the rest of the page: then names alone say what is seen."""
    assert text_of("<div role='navigation'><p>Menu<p>The text.") == "Menu\n\nThe text."
    assert text_of("<main><p>The text.</main>") == "The text."


def test_links_to_the_heading_that_they_stand_at_say_nothing() -> None:
    page = "<h1>Head<a class='headerlink' href='#head'>¶</a></h1><p>See <a href='#other'>the other</a> and <a href='/x'>#</a></p>"
    assert text_of(page) == "Head\n\nSee the other and #"


def test_a_row_of_a_table_is_a_line() -> None:
    page = """<p>Before</p><table><thead><tr><th><p>Name</p></th> <th><p>Meaning</p></th></tr></thead>
    <tbody><tr><td><p>a</p></td><td></td></tr><tr><td>b</td><td><p>one</p><p>two</p></td></tr></tbody></table><p>After</p>"""
    assert text_of(page) == "Before\n\nName\tMeaning\na\nb\tone\n\ntwo\n\nAfter"
    nested = "<table><tr><td>out<table><tr><td>in</td><td>side</td></tr></table></td><td>last</td></tr></table>"
    assert text_of(nested) == "out\n\nin\tside\tlast"
    assert text_of("<tr><td>no</td><td>table</td>") == "notable"


def test_lists_have_their_marks() -> None:
    page = "<ul><li><p>one</p></li><li>two<ol><li>first</li><li>second</li></ol></li></ul><p>After</p><li>lost</li>"
    assert text_of(page) == "- one\n\n- two\n\n  1. first\n  2. second\n\nAfter\n\nlost"


def test_code_keeps_its_lines_and_indentation() -> None:
    code = "if a &lt; b:\n    <span class='k'>return</span>  1\n\n\tx"
    assert text_of(f"<div><pre>{code}</pre></div>") == "if a < b:\n    return  1\n\n\tx"
    assert text_of(f"<ul><li><pre>{code}</pre></li></ul>").endswith("    return  1\n\n\tx")
