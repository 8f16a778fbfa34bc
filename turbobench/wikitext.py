"""Wikipedia's markup to plain prose: only whole paragraphs, because a hole in a sentence is not natural text.

The parser (mwparserfromhell) is used for its tree only; what becomes of each node is decided here, so that the result
does not depend on how a version of it strips markup.
"""

from __future__ import annotations

import bz2
import html
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator

import mwparserfromhell
from mwparserfromhell.nodes import (
    Argument,
    Comment,
    ExternalLink,
    Heading,
    HTMLEntity,
    Node,
    Tag,
    Template,
    Text,
    Wikilink,
)
from mwparserfromhell.wikicode import Wikicode

_HOLE = "\x00"  # something that a reader of the page would have seen here, and that is not text
_MIN_PARAGRAPH = 100
_MIN_ARTICLE = 1000

_INVISIBLE_TAGS = {"ref", "references", "gallery", "table", "timeline", "imagemap", "div", "noinclude", "br", "hr"}
_INLINE_TAGS = {"b", "i", "small", "big", "span", "nowiki", "sup", "sub", "u", "em", "strong", "abbr", "cite", "q"}
# A template that shows nothing, or a mark only, in the running text.
_INVISIBLE_TEMPLATE = re.compile(
    r"(cite|cit|citation|sfn|refn|efn|harv|rp$|r$|note|ref|main|see|further|details|about|redirect|other|for$|use "
    r"|infobox|pp-|good|featured|dead|clear|better|page needed|verify|who|which|when|where|why|by whom|clarify|dubious"
    r"|fact|anchor|coord|portal|commons|multiple image|image|toc|authority|failed|not in|original|according|quantify"
    r"|update|navbox|sidebar|taxobox|speciesbox|automatic|stack|audio|listen|reflist|notelist|weasel|unreliable|primary|self)"
)
_SHOWS_LAST = {"nowrap", "nobr", "lang", "transl", "small", "smaller", "native name", "'", "abbr", "sic", "as of"}
_FIXED = {
    "nbsp": " ",
    "spaces": " ",
    "ndash": "–",
    "mdash": "—",
    "snd": " – ",
    "spaced ndash": " – ",
    "'s": "'s",
    "ad": "AD",
    "bc": "BC",
    "bce": "BCE",
    "ce": "CE",
}
_FILE_LINK = re.compile(r"\s*:?\s*(file|image|category|media|[a-z]{2,3}(-[a-z]+)?)\s*:", re.IGNORECASE)

_TIDYING = (
    (re.compile(r"'{2,}"), ""),
    (re.compile(r"[ \t\u00a0\u2009\u202f]+"), " "),
    (re.compile(r"\(\s*[;,:/–-]*\s*"), "("),
    (re.compile(r"\s*[;,:]*\s*\)"), ")"),
    (re.compile(r"\s*\(\)"), ""),
    (re.compile(r" ([,.;:!?])(?=[ \n]|$)"), r"\1"),
)


def corpus_text(dump: bytes) -> str:
    """Return the prose of all articles of a bz2 MediaWiki dump, titles as ` = Title = ` lines, one paragraph a line."""
    parts = []
    for title, markup in articles(dump):
        text = prose(markup)
        if len(text) >= _MIN_ARTICLE:
            parts.append(f" = {title} =\n\n{text}\n")
    return "\n".join(parts)


def articles(dump: bytes) -> Iterator[tuple[str, str]]:
    """Yield title and markup of the articles: no redirects, lists or disambiguations, nothing outside namespace 0."""
    for _, page in ET.iterparse(io.BytesIO(bz2.decompress(dump))):  # noqa: S314 - its hash is pinned
        if not page.tag.endswith("}page"):
            continue
        title = page.findtext("{*}title") or ""
        is_article = page.findtext("{*}ns") == "0" and page.find("{*}redirect") is None
        if is_article and not title.endswith("(disambiguation)") and not title.startswith("List of"):
            yield title, page.findtext("{*}revision/{*}text") or ""
        page.clear()


def prose(markup: str) -> str:
    """Return the whole paragraphs of an article, one a line, without headings, lists, tables, notes and captions."""
    tree = mwparserfromhell.parse(markup, skip_style_tags=True)
    lines = (_tidy(line) for line in _render(tree.nodes).split("\n"))
    return "\n".join(line for line in lines if _is_paragraph(line))


def _is_paragraph(line: str) -> bool:
    if len(line) < _MIN_PARAGRAPH or _HOLE in line or line[0] in "*#:;|!{}=<":
        return False
    return line.endswith((".", "!", "?", '."', ".)", '?"')) and not re.search(r"\{\{|\}\}|\[\[|\]\]|<[a-z/]|\|", line)


def _tidy(line: str) -> str:
    for pattern, replacement in _TIDYING:
        line = pattern.sub(replacement, line)
    return line.strip()


def _render(nodes: Iterable[Node]) -> str:
    return "".join(map(_node_text, nodes))


def _inside(code: Wikicode | None) -> str:
    return "" if code is None else _render(code.nodes)


def _node_text(node: Node) -> str:  # noqa: PLR0911 - one line a kind of node
    match node:
        case Text():
            return str(node.value)
        case HTMLEntity():
            return html.unescape(str(node))
        case Comment():
            return ""
        case Heading():
            return "\n"
        case Wikilink():
            return _link_text(node)
        case ExternalLink():
            return _inside(node.title) if node.brackets else _HOLE
        case Template():
            return _template_text(node)
        case Argument():
            return _HOLE
        case Tag():
            return _tag_text(node)
    return _HOLE


def _link_text(node: Wikilink) -> str:
    if _FILE_LINK.match(str(node.title)):
        return ""
    return _inside(node.title if node.text is None else node.text)


def _template_text(node: Template) -> str:
    name = str(node.name).strip().replace("_", " ").lower()
    values = [_inside(parameter.value).strip() for parameter in node.params if not parameter.showkey]
    if name in _FIXED:
        return _FIXED[name]
    if name in {"convert", "cvt"} and len(values) >= 2 and re.fullmatch(r"[\d.,]+", values[0]):
        return f"{values[0]} {values[1]}"
    if name in _SHOWS_LAST or name.startswith("lang-"):
        return values[-1] if values else ""
    return "" if _INVISIBLE_TEMPLATE.match(name) else _HOLE


def _tag_text(node: Tag) -> str:
    name = str(node.tag).strip().lower()
    if node.wiki_markup is not None and name in {"li", "dd", "dt"}:
        return str(node.wiki_markup)
    if name in _INVISIBLE_TAGS:
        return ""
    return _inside(node.contents) if name in _INLINE_TAGS else _HOLE
