"""A MediaWiki XML dump to plain article text.

Out go templates, tables, references, comments, formulas, images, categories, interlanguage links,
HTML tags and addresses; links leave their text, headings and list items their plain line. Not a
parser of MediaWiki's grammar (nobody has one): a fixed sequence of regular expressions, plus one
linear scan for what nests.
"""

import html
import re
from collections.abc import Iterable, Iterator

from train.data import wikimarkup as markup

_PAGE_END = "</page>"
_TITLE = re.compile(r"<title>(.*?)</title>")
_TEXT = re.compile(r"<text[^>]*>(.*)</text>", re.DOTALL)
_REDIRECT = re.compile(r"\s*#redirect", re.IGNORECASE)


def articles(blocks: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """Yield the articles of a dump.

    Redirects, pages outside the article namespace, pages without text, and the page that the end
    of the dump cuts in two are left out.

    Args:
        blocks: The dump's XML in pieces of any size.

    Yields:
        Title, plain text, and the characters of the dump read since the last article.
    """
    read = 0
    for page in _pages(blocks):
        read += len(page)
        article = _article(page)
        if article is not None:
            yield (*article, read)
            read = 0


def _article(page: str) -> tuple[str, str] | None:
    """Return title and text of one page, or None when it is no article or has no text."""
    title = _TITLE.search(page)
    source = _TEXT.search(page)
    if title is None or source is None or _REDIRECT.match(source[1]):
        return None
    name = html.unescape(title[1])
    if name.partition(":")[0].lower() in markup.NAMESPACES:
        return None
    text = clean(_unescape_xml(source[1]))
    return (name, text) if text else None


def _pages(blocks: Iterable[str]) -> Iterator[str]:
    """Yield each finished page's XML."""
    rest = ""
    for block in blocks:
        *pages, rest = (rest + block).split(_PAGE_END)
        yield from pages


def _unescape_xml(text: str) -> str:
    """Undo XML's own escapes; what MediaWiki escaped inside them is left for `clean`."""
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    return text.replace("&amp;", "&")


def clean(text: str) -> str:
    """Return the plain text of one page's wiki markup; the empty string when nothing remains."""
    text = markup.drop_elements(text)
    text = markup.drop_templates(text)
    text = markup.drop_tables(text)
    text = markup.links_to_text(text)
    text = markup.drop_tags(text)
    text = markup.mark_lines(text)
    text = html.unescape(text)
    return markup.tidy(text)
