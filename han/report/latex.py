r"""Write explanations for LaTeX: a document by itself that papers can also \input."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby, pairwise

from han.explanation import Explanation, method_name
from han.report.layout import (
    AGAINST,
    FOR,
    LINES,
    PAPER,
    SYMBOLS,
    Block,
    Piece,
    arrange,
    directions,
    figure,
    is_rtl,
    may_break,
    odds,
    verdict,
)

_ESCAPES = {
    **{ord(character): f"\\{character}" for character in "{}$&#%_"},
    ord("\\"): r"\textbackslash{}",
    ord("^"): r"\textasciicircum{}",
    ord("~"): r"\textasciitilde{}",
    ord("`"): r"\textasciigrave{}",
    ord("<"): r"\textless{}",
    ord(">"): r"\textgreater{}",
    ord("|"): r"\textbar{}",
    ord('"'): r"\char34{}",  # babel gives the bare character a meaning in some languages
    0xA0: "~",
    0xAD: r"\-",
    0xFFFD: r"\char65533{}",  # LuaTeX takes the bare character for a fault of the file's encoding
}
_LIGATURES = re.compile(r"(?<=[-',])(?=[-',])")
# Few fonts have the symbols for control characters.
_CODES = {
    code: f"<U+{code:04X}>"
    for code in (*SYMBOLS, *range(0x202A, 0x202F), *range(0x2061, 0x2070), *range(0xFFF9, 0xFFFC))
}
# What has no picture, and among Latin letters no effect.
_INVISIBLE = dict.fromkeys((0x61C, *range(0x200B, 0x2010), 0x2060, 0xFEFF), "{}")
_TOO_LONG = 30
_LONG = re.compile(rf"(\S{{{_TOO_LONG},}})")
_SOURCE_LINE = re.compile(r"(.{80}[^ ]*) ")
_MIRRORED = str.maketrans("()[]{}<>\xab\xbb", ")(][}{><\xbb\xab")

# What every LaTeX has fonts for, beside Latin-1.
_COMMON = frozenset(
    "\u2013\u2014\u2018\u2019\u201a\u201c\u201d\u201e\u2020\u2021\u2022\u2026\u20ac\u2122"
)
_SCRIPTS = dict.fromkeys(("LATIN", "GREEK", "CYRILLIC", "COMBINING"), "European") | {
    "HANGUL": "CJK"
}
_FONTS = {
    "CJK": ("Noto Serif CJK SC", "Noto Sans CJK SC", "Source Han Serif SC", "FandolSong", "SimSun"),
    "European": ("CMU Serif", "DejaVu Serif", "Noto Serif", "FreeSerif", "Times New Roman"),
    "Arabic": ("Noto Naskh Arabic", "Amiri", "Noto Sans Arabic", "DejaVu Sans", "Arial"),
    "Emoji": ("Noto Emoji", "Symbola", "Noto Color Emoji", "Segoe UI Emoji", "Apple Color Emoji"),
    "Symbols": ("DejaVu Sans", "FreeSerif", "Noto Sans Symbols2", "Segoe UI Symbol"),
}
# Scripts whose letters change with their neighbours, as the package fontspec calls them.
_SHAPED = (
    *("Arabic", "Hebrew", "Syriac", "Thaana", "Devanagari", "Bengali", "Gurmukhi", "Gujarati"),
    *("Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Thai", "Lao", "Tibetan"),
    *("Myanmar", "Khmer", "Mongolian", "Javanese", "Balinese"),
)
_MORE_FONTS = ("Noto Serif {}", "Noto Sans {}", "FreeSerif", "DejaVu Sans")

_HEAD = r"""% Compile this file with lualatex (pdflatex draws blocks for what is not Latin), or
% \input it into a document that loads xcolor, and fontspec if not all of the text is Latin.
\expandafter\ifx\csname @nodocument\endcsname\relax
  \ifdefined\providecolor\else
    \errmessage{Load the package xcolor in the preamble to \string\input\space an explanation}%
  \fi
  \def\hanend{}%
\else
  \documentclass{article}
  \ifdefined\directlua\else\ifdefined\XeTeXversion\else
    \usepackage[T1]{fontenc}
    \IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
  \fi\fi
  \usepackage[margin=25mm]{geometry}
  \usepackage{xcolor}
  \ifdefined\directlua\usepackage{fontspec}\fi
  \ifdefined\XeTeXversion\usepackage{fontspec}\fi
  \pagestyle{plain}
  \begin{document}
  \def\hanend{\end{document}}%
\fi
"""

_MACROS = r"""
% The macros of an explanation; define them before this file is read to change the look.
\providecommand\hanfor[2]{\hanword{hanfor#1}{hanfor}%
  {height\dimexpr-.24em+\hanline{#1}\relax depth.24em}{#2}}
\providecommand\hanagainst[2]{\hanword{hanagainst#1}{hanagainst}%
  {height.84em depth\dimexpr-.84em+\hanline{#1}\relax}{#2}}
\providecommand\hanword[4]{\leavevmode\begingroup
  \setbox0\hbox{\kern.05em#4\kern.05em}\kern-.05em
  \hbox to\wd0{\rlap{{\color{#1}\vrule width\wd0 height.84em depth.24em}}%
    \rlap{{\color{#2}\vrule width\wd0 #3}}\box0}%
  \kern-.05em\endgroup}
\providecommand\hansentence[3]{\par\noindent\hangindent5.4em\hangafter1
  \hbox to5.4em{\hbox to2.9em{\hss\footnotesize\hanltr{#1}}\kern.5em
    \rlap{{\color{black!12}\vrule width1.5em height.62em depth0pt}}%
    \rlap{{\color{#2}\vrule width#3em height.62em depth0pt}}\hss}\ignorespaces}
\providecommand\hancut[1]{\textit{\footnotesize[#1 characters not read]}}
\providecommand\hanbreak{\penalty0\hskip0pt plus.02em\relax}
\providecommand\hanwarn{\ifx\hanwarned\undefined
  \gdef\hanwarned{}%
  \GenericWarning{}{LaTeX Warning: an explanation has text that only lualatex can set}%
  \fi}
\providecommand\hanmissing[1]{\hanwarn\begingroup\color{black!40}\count0=#1
  \loop\ifnum\count0>0
    \vrule width.4em height.6em\kern.1em\hanbreak\advance\count0 by-1
  \repeat\endgroup}
% Text in another script: its font, how many characters it has, and the text.
\providecommand\hanscript[3]{%
  \ifcsname hanfont@#1\endcsname{\csname hanfont@#1\endcsname#3}\else\hanmissing{#2}\fi}
\providecommand\hanfont[3]{\ifcsname hanfont@#1\endcsname\else\ifdefined\newfontfamily
  \IfFontExistsTF{#3}{\expandafter\newfontfamily\csname hanfont@#1\endcsname{#3}[#2]}{}%
  \fi\fi}
\ifdefined\directlua
  \def\hanshaper{Renderer=HarfBuzz,}%
  \providecommand\hanrtl[1]{{\textdir TRT #1}}%
  \providecommand\hanltr[1]{{\textdir TLT #1}}%
  \providecommand\hantowardsleft{\pardir TRT\textdir TRT}%
\else
  \def\hanshaper{}%
  \providecommand\hanrtl[1]{\hanwarn#1}%
  \providecommand\hanltr[1]{#1}%
  \providecommand\hantowardsleft{\hanwarn}%
\fi
"""


def render_latex(
    explanations: Iterable[Explanation],
    *,
    title: str | None = None,
    method: str = "attention",
    label: str | None = None,
) -> str:
    r"""Return one LaTeX document that can be compiled by itself or used by `\input` in a paper.

    Each sentence has its figure and a bar in the gutter. Words have coloured boxes, with a line
    below where they speak for the class and above where against; unknown words are in italics. No
    text can become a command. Latin text compiles with pdflatex, lualatex and xelatex. For other
    scripts take lualatex, which sets each in the first installed font of a short list; pdflatex
    draws blocks, xelatex knows no writing towards the left, and both warn. A paper that takes the
    file by `\input` must load xcolor, and fontspec if not all of the text is Latin; the macros are
    made with `\providecommand`, so that it can define them otherwise.

    Args:
        explanations: What to draw, in order.
        title: The heading of it all; left out where `\input` takes the file.
        method: The method whose figures to draw, one of `Explanation.methods`.
        label: The class that they speak for or against; by default the predicted one.

    Raises:
        ValueError: An explanation has no such method, or its model no such class.
    """
    body = "\n".join(_document(explanation, method, label) for explanation in explanations)
    if title is not None:
        heading = rf"{{\Large\bfseries\noindent {_broken(title)}\par}}"
        body = f"\\ifx\\hanend\\empty\\else\n  {heading}\n\\fi\n{body}"
    scripts = sorted(set(re.findall(r"\\hanscript\{(\w+)\}", body)))
    fonts = "".join(map(_font, scripts))
    return f"{_HEAD}{_MACROS}{''.join(_colours())}{fonts}\n{body}\\hanend\n"


def _colours() -> Iterator[str]:
    yield f"\\providecolor{{hanfor}}{{HTML}}{{{FOR[1:].upper()}}}%\n"
    yield f"\\providecolor{{hanagainst}}{{HTML}}{{{AGAINST[1:].upper()}}}%\n"
    for step in range(1, 9):
        yield f"\\providecolor{{hanfor{step}}}{{HTML}}{{{PAPER[step][1:].upper()}}}%\n"
        yield f"\\providecolor{{hanagainst{step}}}{{HTML}}{{{PAPER[-step][1:].upper()}}}%\n"
    lines = r"\or".join(f"{0.6 * line:g}pt" for line in LINES)
    yield rf"\providecommand\hanline[1]{{\ifcase#1 {lines}\fi}}" + "\n"


def _font(script: str) -> str:
    options = rf"\hanshaper Script={script}" if script in _SHAPED else r"\hanshaper"
    names = _FONTS.get(script) or [name.format(script) for name in _MORE_FONTS]
    return "".join(rf"\hanfont{{{script}}}{{{options}}}{{{name}}}%" + "\n" for name in names)


def _document(explanation: Explanation, method: str, label: str | None) -> str:
    lines = [
        r"\par\bigskip\begingroup\linespread{1.15}\selectfont\raggedright\parskip3pt\parindent0pt",
        rf"{{\large\bfseries {_broken(explanation.id)}\par}}",
    ]
    said = (
        rf"\textbf{{{_broken(part)}}}" if name else _tex(part)
        for part, name in verdict(explanation)
    )
    lines.append("".join(said) + r"\par")
    shown = r"\quad ".join(map(_broken, odds(explanation)))
    lines.append(rf"{{\footnotesize {shown}\par}}\smallskip")
    if method != "attention":
        name = _broken(explanation.predicted if label is None else label)
        lines.append(
            rf"{{\footnotesize {_tex(method_name(method))}: \hanfor{{6}}{{orange}} "
            rf"speaks for {name}, \hanagainst{{6}}{{blue}} against it\par}}\smallskip"
        )
    if explanation.empty:
        lines.append(r"\textit{No words: the class comes from the classifier's bias alone.}\par")
    for block in arrange(explanation, method, label):
        lines.append(_sentence(block, method))
    # Lines of a length that editors and version control bear; TeX itself has a limit.
    return "\n".join(_SOURCE_LINE.sub(r"\1\n", line) for line in [*lines, r"\endgroup"]) + "\n"


def _sentence(block: Block, method: str) -> str:
    base = is_rtl("".join(piece.text for piece in block.pieces))
    parts = []
    texts = [piece.text for piece in block.pieces]
    for rtl, group in groupby(
        zip(directions(texts, base), block.pieces, strict=True), key=lambda pair: pair[0]
    ):
        run = "".join(_run([piece for _, piece in group], rtl=rtl))
        parts.append(run if rtl == base else rf"\han{'rtl' if rtl else 'ltr'}{{{run}}}")
    space = r"\medskip" if block.paragraph else ""
    if block.sentence is None:
        gutter = r"\hansentence{}{white}{0} "
    else:
        number = _tex(figure(method, block.score)).replace("-", "$-$")
        colour = "hanfor" if block.height >= 0 else "hanagainst"
        gutter = rf"\hansentence{{{number}}}{{{colour}}}{{{1.5 * abs(block.height):.2f}}} "
    text = f"{space}{gutter}{''.join(parts).strip()}\\par"
    return rf"{{\hantowardsleft {text}}}" if base else text


def _run(pieces: Iterable[Piece], *, rtl: bool) -> Iterator[str]:
    """Yield pieces of one direction; those without a mark together."""
    plain = before = ""
    for piece in pieces:
        text = re.sub(r"\s+", " ", piece.text) if piece.word is None else piece.text
        if piece.cut or piece.step or (piece.word and piece.word.unknown):
            yield _plain(plain, rtl=rtl)
            plain = ""
            if before and may_break(before, text[0]):
                yield r"\hanbreak "
            yield rf"\hancut{{{len(text):,}}}" if piece.cut else _marked(piece, rtl=rtl)
        else:
            if not plain and before and may_break(before, text[0]):
                yield r"\hanbreak "
            plain += text
        before = text[-1]
    yield _plain(plain, rtl=rtl)


def _marked(piece: Piece, *, rtl: bool) -> str:
    name = "for" if piece.step > 0 else "against"
    boxes = []
    for chunk in _chunks(piece.text):
        text = _plain(chunk, rtl=rtl)
        if piece.word and piece.word.unknown:
            text = rf"\textit{{{text}}}"
        boxes.append(rf"\han{name}{{{abs(piece.step)}}}{{{text}}}" if piece.step else text)
    return r"\hanbreak ".join(boxes)


def _plain(text: str, *, rtl: bool) -> str:
    """Write text of one direction; numbers go from left to right in every script."""
    if not rtl:
        return _broken(text)
    parts = re.split(r"(\d[\d.,:/]*)", text.translate(_MIRRORED))
    return "".join(
        rf"\hanltr{{{_tex(part)}}}" if i % 2 else _tex(part) for i, part in enumerate(parts)
    )


def _broken(text: str) -> str:
    """Write text in which a line may break even where there are no spaces for long."""
    parts = _LONG.split(text)
    return "".join(r"\hanbreak ".join(map(_tex, _chunks(part))) for part in parts)


def _chunks(text: str) -> list[str]:
    if len(text) < _TOO_LONG or " " in text:
        return [text]
    return [text[i : i + _TOO_LONG // 2] for i in range(0, len(text), _TOO_LONG // 2)]


def _tex(text: str) -> str:
    r"""Write text so that no character is a command, and each script has its `\hanscript`."""
    text = unicodedata.normalize("NFC", text.translate(_CODES))
    if text.isascii():
        return _escape(text)
    runs = groupby(_clusters(text), key=_script_of)
    return "".join(_set(script, "".join(clusters)) for script, clusters in runs)


def _set(script: str | None, text: str) -> str:
    if script is None:
        return _escape(text).translate(_INVISIBLE)
    parts = [_escape(text[0])]
    for before, after in pairwise(text):
        parts.append(r"\hanbreak " + _escape(after) if may_break(before, after) else _escape(after))
    return rf"\hanscript{{{script}}}{{{len(text)}}}{{{''.join(parts)}}}"


def _clusters(text: str) -> Iterator[str]:
    """Yield characters with what is drawn onto them."""
    cluster = ""
    for character in text:
        drawn_onto = unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")
        if cluster and not (drawn_onto or cluster.endswith("\u200d")):
            yield cluster
            cluster = ""
        cluster += character
    if cluster:
        yield cluster


def _script_of(cluster: str) -> str | None:
    return next(filter(None, map(_script, cluster)), None)


@cache
def _script(character: str) -> str | None:
    """Return what names the font of a character; None if every LaTeX has one."""
    code = ord(character)
    category = unicodedata.category(character)
    if code < 0x100 or character in _COMMON or category == "Cf":
        return None
    if code >= 0x1F000 and category in ("So", "Sk"):
        return "Emoji"
    if category[0] == "S":
        return "Symbols"
    if unicodedata.east_asian_width(character) in "WF":
        return "CJK"
    if category[0] == "C" or 0x2000 <= code < 0x2E80:
        return "Symbols"
    name = re.split("[ -]", unicodedata.name(character))[0]
    return _SCRIPTS.get(name, name.title())


def _escape(text: str) -> str:
    return _LIGATURES.sub(r"{\\kern0pt}", text.translate(_ESCAPES))
