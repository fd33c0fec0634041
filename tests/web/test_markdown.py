"""What a model wrote is seen, whatever it is and whatever the parser does with it."""

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.web import markdown
from app.web.markdown import view_text
from app.web.markdown.formulas import Formula, typeset
from app.web.markdown.ledger import get_direction

# What Markdown's markup is made of; a backslash and brackets of an address are never hidden.
MARKUP = frozenset("*_~`#>-+=|:[]<")


class Reader(HTMLParser):
    """The characters that a reader of a page sees, the numbers of lists among them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.lists: list[tuple[int | None, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("ul", "ol"):
            first = int(given.get("start") or 1) if tag == "ol" else None
            self.lists.append((first, ")" if given.get("class") == "paren" else "."))
        elif tag == "li" and given.get("class") != "as-written":
            number, sign = self.lists[-1]
            if number is not None:
                number = int(given.get("value") or number)
                self.seen.append(f"{number}{sign}")
                self.lists[-1] = (number + 1, sign)
        elif tag == "li" and self.lists[-1][0] is not None:
            self.lists[-1] = (self.lists[-1][0] + 1, self.lists[-1][1])

    def handle_endtag(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            self.lists.pop()

    def handle_data(self, data: str) -> None:
        self.seen.append(data)


def shown(text: str) -> str:
    return str(view_text(text).shown)


def seen(html: str) -> str:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return "".join("".join(reader.seen).split())


def lost(source: str, html: str) -> str:
    """The characters of the source, markup left out, that do not stand in the page in their order."""
    page, at, missing = seen(html), 0, []
    for character in "".join(source.split()):
        if at < len(page) and page[at] == character:
            at += 1
        elif character not in MARKUP:
            missing.append(character)
    assert at == len(page) or missing, f"made up: {page[at:]!r}"
    return "".join(missing)


PIECES = [
    *(
        "*",
        "**",
        "***",
        "_",
        "__",
        "~",
        "~~",
        "`",
        "``",
        "```",
        "~~~",
        "\n",
        "\n\n",
        " ",
        "    ",
        "\t",
    ),
    *(
        "# ",
        "## ",
        " #",
        "> ",
        ">",
        "- ",
        "+ ",
        "* ",
        "1. ",
        "2) ",
        "07. ",
        "===",
        "---",
        "=",
        "--",
        "***",
    ),
    *("|", "|a|b|\n|-|-|\n", "|-|:-:|", "\\", "\\\\", "\\|", "\\*", "\\(", "\\)", "\\[", "\\]"),
    *(
        "[",
        "]",
        "(",
        ")",
        "[a]",
        "[a](b)",
        "[a]: b",
        '[a]: http://x "t"',
        "[^1]",
        "[^1]: x",
        "![i](j)",
        "!",
    ),
    *(
        "<b>",
        "</b>",
        "<!-- c -->",
        "<div>\n",
        "<http://x.y>",
        "<a@b.c>",
        "<",
        "http://x.y/z",
        '"',
        "'",
    ),
    *(
        "a",
        "b1",
        "2",
        "3",
        "x",
        "مدل",
        "متن",
        "é",
        "重",
        "点",
        "🙂",
        "python",
        "{",
        "}",
        "^",
        "%",
        ".",
        ",",
    ),
]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=25).map("".join),
).map(lambda text: text.replace("\x00", "").replace("&", "").replace("$", ""))


@settings(max_examples=600, deadline=None)
@given(TEXTS)
@example("> [a]: b\n> \n> c")
@example("- [a]: b\n\n  c")
@example("| a |\n|-|\n| b | c \\| d | `e` |\n")
def test_every_character_that_is_not_markup_is_seen(text: str) -> None:
    view = view_text(text)
    # Where there is no HTML, the page shows the source, and says so. Formulas have a test of their own.
    if view.html is not None and "<math" not in view.html:
        assert lost(text, view.html) == ""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[1]: https://example.org/source", ["[1]: https://example.org/source"]),
        (
            'Sources follow.\n\n[1]: https://example.org/a "A"',
            ["Sources follow.", '[1]: https://example.org/a "A"'],
        ),
        ("f(x)=x*y*z so 2*3*4 = 24", ["f(x)=x*y*z so 2*3*4 = 24"]),
        ("|a|b|\n|-|-|\n|1|2|the hidden cell|", ["<td>2</td><td>the hidden cell</td>"]),
        ("2**3**4, f(a)*b*(c), *p*q, x *3* 4", ["2**3**4, f(a)*b*(c), *p*q, x *3* 4"]),
        ("call __init__ in snake_case_name", ["call __init__ in snake_case_name"]),
        ("water is H~2~O", ["H~2~O"]),
        ("x\n=\n5", ["x", "=", "5"]),
        ("a \\\\ b, \\frac, \\{ and \\*", ["a \\\\ b, \\frac, \\{ and \\*"]),
        ("C:\\*.txt", ["C:\\*.txt"]),
        ("3. c\n7. d", ['<ol start="3"><li>c</li><li value="7">d</li></ol>']),
        ("007. Bond", ["007. Bond"]),
        ("12\n+ 3", ['<ul class="plus"><li>3</li></ul>']),
        ("```python run\nx\n```", ["python run"]),
        ("[see](https://example.org/x)", ["(https://example.org/x)"]),
        ("![a cat](https://example.org/cat.png)", ["![a cat](https://example.org/cat.png)"]),
        ("<think>no</think><!-- x -->", ["&lt;think&gt;no&lt;/think&gt;&lt;!-- x --&gt;"]),
        ("a&zwnj;b &lt; c", ["a&amp;zwnj;b &lt; c"]),
        ("[^1]: note", ["[^1]: note"]),
    ],
)
def test_what_markdown_eats_is_shown(text: str, wanted: list[str]) -> None:
    html = shown(text)
    assert [each for each in wanted if each not in html] == [], html


def test_markup_that_is_sure_to_be_markup_is_rendered() -> None:
    html = shown(
        "# A\n\n**b** *words* ~~s~~ `c` **重点**内容\n\n- x\n\n> q\n\n***\n\n```py\nif\n```"
    )
    for wanted in (
        *("<h1>A</h1>", "<strong>b</strong>", "<em>words</em>", "<s>s</s>", "<code>c</code>"),
        *("<strong>重点</strong>内容", "<li>x</li>", "<blockquote><p>q</p>", "<hr>"),
        '<span class="k">if</span>',
    ):
        assert wanted in html, html


# --- formulas


def test_formulas_are_typeset_or_left_as_they_are_written() -> None:
    html = shown(r"So \(a*b*c\), $x_1$, \[\frac{a}{b} = \boxed{42}\] and $$\sum_i i$$.")
    assert html.count("<math") == 4
    assert html.count('display="block"') == 2
    assert "<em>" not in html
    assert "\\" not in html
    assert "<mfrac><mi>a</mi><mi>b</mi></mfrac>" in html


@pytest.mark.parametrize(
    "written",
    [
        r"\(a \phantom{b} c\)",  # would hide
        r"\(\color{white} x\)",
        r"\(a % b\)",
        r"\(\unknown{x}\)",
        r"\(x^{\)",
        r"\(a \hspace{-3em} b\)",
        r"\(\def\x{y} z\)",
        "it costs $5 and that costs $10, or 3$",
        "$US5 and A$ are prices",
        r"\( never closed",
        r"`\(code\)`",
    ],
)
def test_what_cannot_be_typeset_stays_to_the_letter(written: str) -> None:
    html = shown(written)
    assert "<math" not in html
    assert written.replace("`", "") in html


def test_no_formula_is_given_numbers_that_nobody_wrote() -> None:
    html = typeset(Formula(0, 0, r"\begin{align}a&=b\\c&=d\end{align}", True))
    assert html is not None
    assert "(1)" not in html
    assert " style=" not in html


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            (
                *"abxyz012345+-=<>()[]|,.!'*/^_{}&% \n",
                *(
                    r"\frac",
                    r"\sqrt",
                    r"\text{if }",
                    r"\left(",
                    r"\right)",
                    r"\alpha",
                    r"\mathbb{R}",
                ),
                *(r"\\", r"\begin{matrix}", r"\end{matrix}", r"\phantom", r"\,"),
            )
        ),
        max_size=15,
    ).map("".join)
)
def test_a_typeset_formula_keeps_its_letters_and_figures(latex: str) -> None:
    view = view_text(f"a \\({latex}\\) b")
    if view.html is not None and "<math" in view.html:
        printed = re.sub(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+", "", latex)
        for each in "abxyz012345":
            assert seen(view.html).count(each) >= printed.count(each), view.html


# --- direction


def test_each_paragraph_runs_the_way_most_of_its_letters_do() -> None:
    html = shown("Python یک زبان برنامه‌نویسی است.\n\nThis is about فارسی.\n\n- زبان\n- word")
    assert html.count('<p dir="rtl">') == 1
    assert html.count('<p dir="ltr">') == 1
    assert '<li dir="rtl">زبان</li><li dir="ltr">word</li>' in html
    assert get_direction("این یک زبان است (Python 3.12).") == "rtl"
    assert get_direction("بخوان: https://example.org/a-long-address-in-latin-letters") == "rtl"
    assert get_direction("12 + 3 = ۱۵") == "auto"
    assert "dir=" not in shown("plain *english*")


# --- the source


@given(
    st.text(
        st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\n\r ا<&")),
        max_size=99,
    )
)
def test_the_source_is_the_text(text: str) -> None:
    class Pre(HTMLParser):
        text = ""

        def handle_data(self, data: str) -> None:
            self.text += data

    reader = Pre()
    reader.feed(f"<pre>{view_text(text).source}</pre>")
    reader.close()
    assert reader.text == "\n" + text  # of which a browser drops the first


N = 250_000
NASTY = {
    "emphasis": "_*" * (N // 2),
    "brackets": "[" * N,
    "matched": "[" * (N // 2) + "]" * (N // 2),
    "links": "[](" * (N // 3),
    "references": "[a]: b\n\n" + "[a] " * (N // 4),
    "images": "![" * (N // 2),
    "quotes": ">" * N,
    "lists": "- " * (N // 2),
    "deep list": "".join(" " * (2 * n) + "- a\n" for n in range(450)),
    "ticks": " ".join("`" * n for n in range(1, 700)),
    "pipes": "|a|b|\n|-|-|\n" + "|1|2|3|4|5\n" * (N // 11),
    "wide table": "|a" * (N // 4) + "|\n" + "|-" * (N // 4) + "|\n",
    "html": "<a " * (N // 3),
    "comments": "<!--" * (N // 4),
    "entities": "&amp;" * (N // 5),
    "strikes": "~~a" * (N // 3),
    "open formulas": r"\(" * (N // 2),
    "dollars": "$a " * (N // 3),
    "formulas": ("$" + "x^2+" * 400 + "1$ ") * (N // 1605),
    "deep formulas": ("$" + "x^{" * 11 + "a" + "}" * 11 + "$ ") * 1900,
    "right to left": "> " * 30 + "یک " * (N // 6),
    "java": ("```java\n" + "a " * 1200 + "\n```\n") * 100,
    "c": ("```c\n" + " \n" * 1200 + "\n```\n") * 100,
}


@pytest.mark.parametrize("name", NASTY)
def test_rendering_takes_a_bounded_time(name: str) -> None:
    for text in (NASTY[name], NASTY[name][: markdown.LONGEST_RENDERED]):
        began = time.process_time()
        view = view_text(text)
        assert time.process_time() - began < 1.5  # the worst takes 0.3 s on a quiet machine
        assert len(view.html or "") < 60 * len(text)


def test_a_fault_of_the_renderer_shows_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> tuple[str, str]:
        raise RuntimeError

    monkeypatch.setattr(markdown, "render_html", fail)
    assert view_text("**what fails**").html is None
    assert shown("**what fails**") == '<pre class="source">\n**what fails**</pre>'


def test_what_the_allow_list_takes_away_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "render_html", lambda text: ("<script>x</script>y", "xy"))
    assert view_text("what is taken away").html is None


def test_the_views_made_last_are_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "_kept", markdown._Kept())
    monkeypatch.setattr(markdown, "MOST_KEPT", 1000)
    first = view_text("a" * 200)
    assert view_text("a" * 200) is first
    for each in "bcdefg":
        view_text(each * 200)
    assert markdown._kept.size <= 1000
    assert view_text("a" * 200) is not first
