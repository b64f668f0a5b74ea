"""The cards at the top of the page: each approach's exponent, or that it was refused."""

from analysis.bootstrap import Interval
from analysis.fits import Analysis
from analysis.powerlaw import Law
from analysis.refusal import Refusal
from analysis.report.blocks import Answer, ends


def answer_cards(analysis: Analysis) -> list[Answer]:
    """Return one card an approach, those with an answer first."""
    cards = [_isoflop(analysis), _parametric(analysis), _envelope(analysis)]
    return sorted(cards, key=lambda card: bool(card.refused))


def _isoflop(analysis: Analysis) -> Answer:
    fit, name = analysis.isoflop, "IsoFLOP valleys"
    if isinstance(fit, Refusal):
        return Answer(name, refused=fit.why)
    return _of_laws(name, fit.n_law, fit.d_law)


def _envelope(analysis: Analysis) -> Answer:
    fit, name = analysis.envelope, "Envelope of training curves"
    if isinstance(fit, Refusal):
        return Answer(name, refused=fit.why)
    return _of_laws(name, fit.n_law, fit.d_law)


def _parametric(analysis: Analysis) -> Answer:
    fit, name = analysis.parametric, "Parametric surface"
    if isinstance(fit, Refusal):
        return Answer(name, refused=fit.why)
    low, high = fit.intervals["a"]
    return _card(name, fit.values["a"], (low, high), fit.b, (1 - high, 1 - low))


def _of_laws(name: str, n_law: Law, d_law: Law) -> Answer:
    a, b = n_law.fit.exponent, d_law.fit.exponent
    return _card(name, a, n_law.interval, b, d_law.interval)


def _card(name: str, a: float, a_ci: Interval, b: float, b_ci: Interval) -> Answer:
    return Answer(name, f"{a:.3f}", ends(a_ci), f"D_opt ~ C^{b:.3f} {ends(b_ci)}")
