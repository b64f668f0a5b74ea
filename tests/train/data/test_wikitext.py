import pytest

from train.data.wikitext import articles, clean

PAGE = '<page><title>{title}</title><id>1</id><text xml:space="preserve">{text}</text></page>'


@pytest.mark.parametrize(
    ("wiki", "plain"),
    [
        ("'''Bold''' and ''slanted'' and '''''both'''''", "Bold and slanted and both"),
        ("an [[apple]], [[Pear|pears]], [[bus]]es", "an apple, pears, buses"),
        ("see [[Star Trek: Nemesis]] and [[:Category:Fruit]]",
         "see Star Trek: Nemesis and Category:Fruit"),
        ("[[John McCain|[John] McCain]] said", "[John] McCain said"),
        ("[[Category:Fruit]]Fruit[[de:Obst]][[zh-min-nan:Ko]]", "Fruit"),
        ("a [[Image:a.jpg|thumb|An [[apple]], [http://x.org red]]]b", "a b"),
        ("[[Image:a.jpg|an [odd [caption]]\nText", "Text"),
        ("[http://x.org/a?b=c the site] and [http://y.org] and http://z.org/q, too",
         "the site and and, too"),
        ("A{{cite|a={{nested|{{deep}}}}}}B", "AB"),
        ("{{unclosed B {{closed}} C", "{{unclosed B C"),
        ("the sound {{IPA|/a/}}, in {{lang|el|alpha}}", "the sound /a/, in alpha"),
        ("before\n{| class=x\n|-\n| a || {{t|b}}\n{| inner\n| c\n|}\n|}\nafter", "before\n\nafter"),
        ("before\n| lost row\n! lost head\nafter", "before\nafter"),
        ("fact<ref name=a>source {{x}}</ref> and<ref name=b /> more<!-- hidden\nnote -->.",
         "fact and more."),
        ("x<sup>2</sup> is <b>bold</b><br />next <span style='a'>s</span>",
         "x2 is bold\nnext s"),
        ("where <math>\\frac{a}{b}</math> is", "where is"),
        ("if x < y and y > z", "if x < y and y > z"),
        ("fish &amp; chips&nbsp;&mdash; &#233;&lt;b&gt;", "fish & chips \u2014 \u00e9<b>"),
        ("* one\n** two\n# three\n:; four", "one\ntwo\nthree\nfour"),
        ("a ({{IPA|}}, ) b (, born 1900) c", "a b (born 1900) c"),
        ("  much   space \t here  \n\n\n\nnext\u200b", "much space here\n\nnext"),
        ("text\n----\n__NOTOC__\nmore ~~~~", "text\n\nmore"),
        ("r\u00e9sum\u00e9 \u65e5\u672c\u8a9e", "r\u00e9sum\u00e9 \u65e5\u672c\u8a9e"),
        ("{{only|a template}}", ""),
    ],
)  # fmt: skip
def test_markup_becomes_plain_text(wiki, plain):
    assert clean(wiki) == plain


def test_headings_become_lines_and_empty_sections_go():
    wiki = (
        "Intro\n== A ==\n=== A.1 ===\ntext\n== B ==\n{{stub}}\n=== B.1 ===\n== C ==\nend\n== D =="
    )
    assert clean(wiki) == "Intro\n\nA\n\nA.1\n\ntext\n\nC\n\nend"


def test_nesting_is_linear():
    deep = "{{" * 20_000 + "x" + "}}" * 20_000
    assert clean(f"a{deep}b") == "ab"
    assert clean("{{x" * 20_000 + "[[y" * 20_000).count("y") == 20_000


def test_redirects_other_namespaces_empty_and_unfinished_pages_are_dropped():
    pages = [
        PAGE.format(title="Old", text="#REDIRECT [[New]]"),
        PAGE.format(title="Template:Stub", text="a stub"),
        PAGE.format(title="User talk:X", text="hello"),
        PAGE.format(title="Empty", text="{{x}}"),
        '<page><title>None</title><text xml:space="preserve" /></page>',
        PAGE.format(title="AT&amp;T: a history", text="It&amp;#39;s &lt;b&gt;one&lt;/b&gt;."),
        PAGE.format(title="Two", text="Second."),
        "<page><title>Cut</title><text>no end",
    ]
    dump = "<mediawiki>" + "\n".join(pages)
    expected = [("AT&T: a history", "It's one."), ("Two", "Second.")]
    for size in (7, 100, len(dump)):
        blocks = [dump[begin : begin + size] for begin in range(0, len(dump), size)]
        assert [(title, text) for title, text, _ in articles(blocks)] == expected


def test_characters_read_add_up():
    dump = "".join(PAGE.format(title=f"T{number}", text="some text") for number in range(5))
    read = sum(read for _, _, read in articles([dump]))
    assert read == len(dump) - 5 * len("</page>")
