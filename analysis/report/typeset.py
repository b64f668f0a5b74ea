"""Formulas and numbers of plain text, set as on paper: N<sub>opt</sub>, C<sup>0.5</sup>, 6x10^19.

The console's words and the page's are the same; here they only look better. What names a run or is
to be copied stays as it is, so that it can be searched for.
"""

import re

from markupsafe import Markup, escape

_GREEK = {"alpha": "&alpha;", "beta": "&beta;"}

_POWER = re.compile(r"\*\*(\([^()]*\)|-?[A-Za-z]+|-?\d+(?:\.\d+)?)")
_CARET = re.compile(r"(?<=[A-Za-z])\^(-?\d+(?:\.\d+)?|[a-z]\b)")
_OPTIMUM = re.compile(r"\b([NDC])_opt\b")
_LARGE = re.compile(r"(?<![\w.=/-])(\d+(?:\.\d+)?)e([+-])(\d{2,3})(?![\w.-]*\w)")
_GREEK_WORD = re.compile(r"\b(alpha|beta)\b")


def typeset(text: str) -> Markup:
    """Return text as HTML, escaped, with its formulas and powers of ten typeset."""
    body = str(escape(text))
    body = _OPTIMUM.sub(r"\1<sub>opt</sub>", body)
    body = _CARET.sub(lambda m: f"<sup>{_minus(m[1])}</sup>", body)
    body = _LARGE.sub(_power_of_ten, body)
    return Markup(body.replace("+-", "&plusmn;"))  # noqa: S704 - escaped above


def formula(text: str) -> Markup:
    """Return a formula in Python's notation, E + A / N**alpha, as HTML."""
    body = _POWER.sub(lambda m: f"<sup>{_minus(m[1].strip('()'))}</sup>", str(escape(text)))
    body = _GREEK_WORD.sub(lambda m: _GREEK[m[1]], body)
    return Markup(f'<span class="formula">{body}</span>')  # noqa: S704 - escaped above


def _power_of_ten(match: re.Match[str]) -> str:
    lead, sign, digits = match.groups()
    power = f"10<sup>{'&minus;' if sign == '-' else ''}{int(digits)}</sup>"
    return power if lead == "1" else f"{lead}&nbsp;&times;&nbsp;{power}"


def _minus(text: str) -> str:
    return text.replace("-", "&minus;")
