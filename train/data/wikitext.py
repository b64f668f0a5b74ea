"""Plain article text from a MediaWiki XML dump.

Templates, tables, references, comments, formulas, images, categories, interlanguage links, HTML
tags and addresses are removed. Links keep their text, headings and list items their line. `clean`
is no parser of MediaWiki's grammar but a fixed sequence of regular expressions. Each step is linear
in the length of the text: nested templates, tables and links are found by a scan with a stack,
never by a backtracking expression.
"""

import html
import re
from collections.abc import Iterable, Iterator

_PAGE_END = "</page>"
_TITLE = re.compile(r"<title>(.*?)</title>")
_TEXT = re.compile(r"<text[^>]*>(.*)</text>", re.DOTALL)
_REDIRECT = re.compile(r"\s*#redirect", re.IGNORECASE)


def articles(blocks: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """Yield the articles of a dump.

    Redirects, pages outside the article namespace, pages without text, and an incomplete last page
    are skipped.

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
    """Title and text of one page; None if it is not an article or has no text."""
    title = _TITLE.search(page)
    source = _TEXT.search(page)
    if title is None or source is None or _REDIRECT.match(source[1]):
        return None
    name = html.unescape(title[1])
    if name.partition(":")[0].lower() in NAMESPACES:
        return None
    text = clean(_unescape_xml(source[1]))
    return (name, text) if text else None


def _pages(blocks: Iterable[str]) -> Iterator[str]:
    """Yield the XML of each complete page."""
    rest = ""
    for block in blocks:
        *pages, rest = (rest + block).split(_PAGE_END)
        yield from pages


def _unescape_xml(text: str) -> str:
    """Undo XML escapes; `clean` undoes those of MediaWiki."""
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    return text.replace("&amp;", "&")


def clean(text: str) -> str:
    """Plain text of the wiki markup of one page; may be empty."""
    text = drop_elements(text)
    text = drop_templates(text)
    text = drop_tables(text)
    text = links_to_text(text)
    text = drop_tags(text)
    text = mark_lines(text)
    text = html.unescape(text)
    return tidy(text)


_SUBJECTS = (
    *("media", "special", "user", "wikipedia", "image", "file"),
    *("mediawiki", "template", "help", "category", "portal"),
)
NAMESPACES = frozenset({*_SUBJECTS, "talk", *(f"{subject} talk" for subject in _SUBJECTS)})
"""Title prefixes of pages that are not articles, in lower case."""

_DROPPED_LINKS = frozenset({"image", "file", "media", "category", "bild"})
_LANGUAGES = re.compile(
    r"(?:[a-z]{2,3}|simple|zh-(?:min-nan|classical|yue|cn|tw)|roa-rup|map-bms|fiu-vro|bat-smg"
    r"|be-x-old|cbk-zam|nds-nl|tokipona|minnan)\Z"
)
_TEXT_TEMPLATE = re.compile(
    r"\{\{\s*(?:ipa|unicode|polytonic|arabdin|ar|hayeren|hebrew|lang\|[a-z-]+)\|([^{}|]*)\}\}", re.I
)
"""Templates that only format the text inside them."""

_LINK = re.compile(r"\[\[((?:[^\[\]]++|\[[^\[\]]*+\])*+)\]\]")
_BROKEN_LINK = re.compile(r"\[\[(?:image|file|category):(?:.*?\]\]|.*)", re.I)
_EXTERNAL = re.compile(
    r"\[ *(?:https?://|ftp://|irc://|news:|mailto:|//)[^\s\]]*([^\[\]\n]*)\]", re.IGNORECASE
)
_ADDRESS = re.compile(r"\b(?:https?|ftp|irc)://[^\s<>\"\]|]*[^\s<>\"\]|.,;:)!?']", re.IGNORECASE)

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_ELEMENT = re.compile(
    r"<(ref|math|gallery|timeline|hiero|imagemap|table|references)\b[^<>]*?"
    r"(?:/>|>.*?</\1\s*>)",
    re.DOTALL | re.IGNORECASE,
)
_BREAK = re.compile(r"</?(?:br|p|div|li|ul|ol|dl|dt|dd|tr|hr|center|blockquote)\b[^<>]*>", re.I)
_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*\b[^<>]*>")

_TEMPLATE_EDGE = re.compile(r"\{\{|\}\}")
_TABLE_EDGE = re.compile(r"^[ \t:*]*\{\||^[ \t]*\|\}", re.MULTILINE)
_TABLE_LINE = re.compile(r"^[ \t]*(?:\{\||\|\}|[|!]).*\n?", re.MULTILINE)

_QUOTES = re.compile(r"'{2,}")
_MAGIC = re.compile(r"__[A-Z]+__|~{3,5}")
_RULE = re.compile(r"^-{4,}", re.MULTILINE)
_HEADING = re.compile(r"^(={1,6})[ \t]*(.*?)[ \t]*=+[ \t]*$", re.MULTILINE)
_ITEM = re.compile(r"^[*#:;]+[ \t]*", re.MULTILINE)
_HEADING_MARK = "\x02"

_ODD_SPACE = re.compile(r"[\t\r\f\v\u00a0\u2009\u200a\u202f\u3000]")
_SPACES = re.compile(r" {2,}")
_UNPRINTABLE = re.compile(r"[\x00\x01\x03-\x08\x0e-\x1f\x7f\ufeff\u200b\u200e\u200f]")
_HOLLOW = re.compile(r"[(\[][ ,;:.\-/|]*[)\]]")
_AFTER_OPEN = re.compile(r"\([ ,;:]+")
_BEFORE_STOP = re.compile(r" ([,;.)\]])(?=\s)")
_BARE_LINE = re.compile(r"^[\s|\-*#:;.,!{}\[\]()]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


def drop_elements(text: str) -> str:
    """Drop comments and the HTML elements whose content is not running text."""
    if "<" not in text:
        return text
    return _ELEMENT.sub("", _COMMENT.sub("", text))


def drop_templates(text: str) -> str:
    """Drop {{...}} with everything nested inside, except templates that only format a text."""
    if "{{" not in text:
        return text
    return _drop_nested(_TEXT_TEMPLATE.sub(r"\1", text), _TEMPLATE_EDGE, "{{")


def drop_tables(text: str) -> str:
    """Drop {| ... |} with everything nested inside, and rows without a table."""
    if "{|" in text:
        text = _drop_nested(text, _TABLE_EDGE, "{|")
    return _TABLE_LINE.sub("", text)


def _drop_nested(text: str, edge: re.Pattern[str], opening: str) -> str:
    """Drop every balanced span between two edges, in one scan with a stack."""
    opened: list[int] = []
    spans: list[tuple[int, int]] = []
    for match in edge.finditer(text):
        if match[0].endswith(opening):
            opened.append(match.start())
        elif opened:
            begin = opened.pop()
            # spans inside the new one
            while spans and spans[-1][0] > begin:
                spans.pop()
            spans.append((begin, match.end()))
    kept: list[str] = []
    end = 0
    for begin, next_end in spans:
        kept.append(text[end:begin])
        end = next_end
    kept.append(text[end:])
    return "".join(kept)


def links_to_text(text: str) -> str:
    """Replace links by their text, innermost first, so that captions vanish with their image."""
    while True:
        shorter = _LINK.sub(_link_text, text)
        if shorter == text:
            break
        text = shorter
    text = _BROKEN_LINK.sub("", text)
    # the visible part of [address text]
    text = _EXTERNAL.sub(lambda link: link[1].strip(), text)
    return _ADDRESS.sub("", text) if "://" in text else text


def _link_text(link: re.Match[str]) -> str:
    """Visible text of [[target|text]]."""
    target, pipe, shown = link[1].partition("|")
    prefix, colon, _ = target.partition(":")
    if colon:
        prefix = prefix.strip().lower()
        if prefix in _DROPPED_LINKS or (not pipe and _LANGUAGES.match(prefix)):
            return ""
    if pipe:
        return shown.rpartition("|")[2] or target.lstrip(":").partition("#")[0]
    return target.lstrip(":").replace("#", " ") if "#" in target else target.lstrip(":")


def drop_tags(text: str) -> str:
    """Drop HTML tags; those that break a line become a newline."""
    if "<" not in text:
        return text
    return _TAG.sub("", _BREAK.sub("\n", text))


def mark_lines(text: str) -> str:
    """Make headings and list items plain lines; headings get a mark and level for `tidy`."""
    text = _QUOTES.sub("", text)
    if "__" in text or "~~~" in text:
        text = _MAGIC.sub("", text)
    text = _RULE.sub("", text)
    text = _HEADING.sub(_mark_heading, text)
    return _ITEM.sub("", text)


def _mark_heading(heading: re.Match[str]) -> str:
    return f"\n{_HEADING_MARK}{len(heading[1])}{heading[2]}\n"


def tidy(text: str) -> str:
    """Normalise white space, drop empty brackets and sections, and unmark headings."""
    text = _ODD_SPACE.sub(" ", _UNPRINTABLE.sub("", text))
    text = _AFTER_OPEN.sub("(", _HOLLOW.sub("", text))
    text = _BEFORE_STOP.sub(r"\1", _SPACES.sub(" ", text))
    text = _BARE_LINE.sub("", text)
    text = _drop_empty_sections([line.strip(" ") for line in text.split("\n")])
    return _BLANK_LINES.sub("\n\n", text).strip()


def _drop_empty_sections(lines: list[str]) -> str:
    """Drop headings without text below them, and unmark the others."""
    kept: list[str] = []
    # level of the heading that follows directly; 0 at the end of the page, 9 for text
    level_below = 0
    for line in reversed(lines):
        if line.startswith(_HEADING_MARK):
            level = int(line[1])
            if level < level_below:
                kept.append(line[2:])
                level_below = level
            elif level_below != 0:
                level_below = min(level, level_below)
        else:
            kept.append(line)
            if line:
                level_below = 9
    return "\n".join(reversed(kept))
