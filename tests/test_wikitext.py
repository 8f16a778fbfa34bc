"""From Wikipedia's markup to prose."""

import bz2

from turbobench.wikitext import articles, corpus_text, prose

TAIL = " The sentence goes on for long enough to be counted as a paragraph of prose by the rule that asks for it."


def _one(markup: str) -> str:
    return prose(markup + TAIL).removesuffix(TAIL)


def test_bold_italic_and_links_leave_their_words() -> None:
    assert _one("'''Bold''' and ''slanted'' [[Page|words]] and [[other]].") == "Bold and slanted words and other."


def test_notes_comments_and_citations_vanish() -> None:
    assert _one("It is so.<ref name=a>{{cite book|title=X}}</ref><!-- no --> {{sfn|X|2001}}") == "It is so."


def test_captions_and_categories_vanish() -> None:
    markup = "[[File:a.jpg|thumb|A [[caption]] of it.]]Text here. [[Category:Things]][[fr:Chose]]"
    assert _one(markup) == "Text here."


def test_entities_and_dashes_become_characters() -> None:
    assert _one("One&nbsp;two {{ndash}} three &amp; four.") == "One two – three & four."


def test_a_measure_keeps_its_number_and_unit() -> None:
    assert _one("It is {{convert|5|km|mi}} long.") == "It is 5 km long."


def test_what_an_emptied_parenthesis_leaves_is_tidied() -> None:
    assert _one("A word ({{refn|x}}; from Greek) was here ({{cite web|url=x}}).") == "A word (from Greek) was here."


def test_a_paragraph_with_a_hole_is_dropped_whole() -> None:
    whole = "A whole paragraph." + TAIL
    for hole in ("the mass <math>m</math> of it", "some {{unheardof|x}} thing", "{{{argument}}} here"):
        assert prose(f"With {hole}.{TAIL}\n\n{whole}") == whole


def test_headings_lists_and_tables_are_dropped() -> None:
    whole = "A whole paragraph." + TAIL
    table = "{| class=x\n! Head\n|-\n| A cell that holds a sentence. || Another.\n|}"
    assert prose(f"== Heading ==\n{whole}\n* An item of a list.{TAIL}\n# Another.{TAIL}\n{table}\n") == whole


def test_short_lines_and_lines_that_end_in_the_air_are_dropped() -> None:
    assert prose("Too short.\n\n" + TAIL.strip(". ") + " and so on as follows:") == ""


def _dump(*pages: str) -> bytes:
    namespace = 'xmlns="http://www.mediawiki.org/xml/export-0.10/"'
    return bz2.compress(f"<mediawiki {namespace}>{''.join(pages)}</mediawiki>".encode())


def _page(title: str, text: str, *, ns: int = 0, redirect: str = "") -> str:
    return f"<page><title>{title}</title><ns>{ns}</ns>{redirect}<revision><text>{text}</text></revision></page>"


def test_only_articles_are_taken_from_a_dump() -> None:
    dump = _dump(
        _page("Moved", "#REDIRECT", redirect='<redirect title="Kept" />'),
        _page("Talk:Kept", "talk", ns=1),
        _page("Kept (disambiguation)", "may mean"),
        _page("List of things", "one"),
        _page("Kept", "the text"),
    )
    assert list(articles(dump)) == [("Kept", "the text")]


def test_an_article_is_its_title_and_a_paragraph_a_line_and_stubs_are_left_out() -> None:
    paragraph = "A whole paragraph." + TAIL
    text = "\n\n".join([paragraph] * 10)
    assert corpus_text(_dump(_page("Stub", paragraph), _page("Long", text))) == (
        " = Long =\n\n" + "\n".join([paragraph] * 10) + "\n"
    )
