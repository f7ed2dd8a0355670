"""What the figures mean, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator

from han.explanation import method_name
from han.faithfulness.figures import RANDOM, Estimate, Faithfulness, MethodFigures

FEWEST = 10
"""How many documents a judgement must rest on."""


def summarize(result: Faithfulness) -> Iterator[str]:
    """Yield the sentences of a summary, the most important first."""
    attention, random = result.of("attention"), result.of(RANDOM)
    k = min(range(len(result.bins)), key=lambda k: abs(result.bins[k] - 0.1))
    part = f"{100 * result.bins[k]:g} %"
    yield _verdict(result)
    yield (
        f"Without the {part} of words with most attention, the probability of the predicted class "
        f"is {_change(attention.comprehensiveness[k], with_interval=True)}; without as many random "
        f"words, {_change(random.comprehensiveness[k])}."
    )
    yield (
        f"With those {part} alone, it is {_change(attention.sufficiency[k])}; with as many random "
        f"words alone, {_change(random.sufficiency[k])}."
    )
    yield (
        f"Until the label changes, {_percent(attention.word_flip.mean)} of the words must go in "
        f"the order of attention, {_percent(random.word_flip.mean)} in random order (means over "
        "documents; 100 % where it never changes)."
    )
    best = max(result.methods, key=lambda figures: figures.aopc_comprehensiveness.mean)
    if best.method not in ("attention", RANDOM):
        yield (
            f"Of the methods, {method_name(best.method)} finds the words that matter best: over "
            f"all parts they lower the probability by {_over_random(best)}, those of attention by "
            f"{_over_random(attention)}."
        )
    if (occlusion := attention.rank_agreement.get("occlusion")) is not None:
        yield (
            f"Attention {_agreement(occlusion.mean)} ranks words as their occlusion does "
            f"(Kendall's tau-b {_with_interval(occlusion)}; 1 is the same order, 0 chance)."
        )
    if (uniform := result.uniform) is not None:
        accuracies = ""
        if uniform.accuracy is not None and uniform.uniform_accuracy is not None:
            accuracies = f"; accuracy {uniform.accuracy:.3f}, then {uniform.uniform_accuracy:.3f}"
        yield (
            f"With the same attention on every word and sentence, {_percent(uniform.same_label)} "
            f"of the documents keep their label{accuracies}. The more they are, the less of the "
            "decision lies in the attention."
        )
    for other in result.divergence:
        yield (
            f"{other.model} gives {_percent(other.same_label)} of the documents the same label, "
            f"and its attention diverges by {_with_interval(other.words)} (Jensen-Shannon, in "
            "bits: 0 is the same attention, 1 none in common)."
        )
    if attention.rationales is not None and random.rationales is not None:
        people, chance = attention.rationales, random.rationales
        yield (
            f"Of the words with most attention, people marked {_percent(people.precision.mean)} "
            f"(of random words {_percent(chance.precision.mean)}), in {people.documents} documents "
            "with rationales."
        )


def _verdict(result: Faithfulness) -> str:
    """Say how far the highlights of attention can be trusted."""
    if result.documents < FEWEST:
        documents = (
            "1 document is" if result.documents == 1 else f"{result.documents} documents are"
        )
        return f"{documents} too few to tell how far the highlights can be trusted."
    attention, gain = result.of("attention").aopc_comprehensiveness, result.of("attention").gain
    best = max(figures.aopc_comprehensiveness.mean for figures in result.methods)
    if gain is not None and gain.high < 0:
        return (
            "Attention points to words that matter less than random ones: it is no guide to what "
            "the decision rests on."
        )
    if gain is None or gain.low <= 0:
        return (
            "As a guide to the words that the decision rests on, attention cannot be told from "
            "chance here."
        )
    if attention.mean < best / 2:
        return (
            "Attention points to words that matter, but to less than half of what the best method "
            "finds; use that one where much hangs on it."
        )
    return "Attention points to words that matter to the decision."


def _with_interval(estimate: Estimate) -> str:
    if estimate.low == estimate.high:
        return f"{estimate.mean:.2f}"
    return f"{estimate.mean:.2f} (95 % interval {estimate.low:.2f} to {estimate.high:.2f})"


def _change(lost: Estimate, *, with_interval: bool = False) -> str:
    """Say how a probability has changed that has lost so much."""
    sign = 1 if lost.mean > 0 else -1
    change = f"{'lower' if sign > 0 else 'higher'} by {abs(lost.mean):.2f}"
    if with_interval and lost.low < lost.high:
        low, high = sorted((sign * lost.low, sign * lost.high))
        return f"{change} (95 % interval {low:.2f} to {high:.2f})"
    return change if abs(lost.mean) >= 0.005 else "the same"


def _over_random(figures: MethodFigures) -> str:
    mean = f"{figures.aopc_comprehensiveness.mean:.2f}"
    if figures.over_random is None:
        return mean
    return f"{mean}, {figures.over_random.mean:.1f} times what random words do"


def _agreement(tau: float) -> str:
    return "hardly" if tau < 0.2 else "partly" if tau < 0.5 else "largely"


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"
