"""Sums and differences of two numbers below 100, digit by digit. Held out: pairs of operands."""

# ruff: noqa: E501  (a wording stands on one line)

from __future__ import annotations

from random import Random

from gptoss_ray.demo_training.split import is_held_out
from gptoss_ray.demo_training.turn import Reasoning, Turn
from gptoss_ray.demo_training.wording import Wordings, restyle

LIMIT = 100

_ASK = "(What is|What's|How much is|Calculate|Compute|Tell me|Give me|Work out|Solve|whats|Please compute|Can you compute|Can you tell me|Could you work out|What does|I need|What do you get for|Do you know|Find)"
_SUM_PATTERNS = (
    "{a} + {b}",
    "{a}+{b}",
    "{a}(+| + ){b}( =| = ?|=|=?|?)",
    "{a} (plus|and) {b}(?|)",
    f"{_ASK} {{a}} + {{b}}(?|)",
    "What is {a} + {b}?",
    f"{_ASK} {{a}}+{{b}}(?|)",
    f"{_ASK} {{a}} (plus|added to) {{b}}(?|.)",
    f"{_ASK} the sum of {{a}} and {{b}}(?|.)",
    "(Add|Add up|Sum|Sum up|Please add|Can you add|Could you add) {a} (and|to|with|plus) {b}(.|?|)",
    "What (is|do you get|do I get) (if|when) (you|I|we) add {a} (to|and) {b}?",
    "(The sum of|The total of|Total of|Sum of) {a} and {b}(?| is|)",
    "I have {a} (apples|books|coins|cards|eggs|pens) and (get|buy|find|receive) {b} more. How many (do I have|are there) (now|in total|)?",
    "(Anna|Tom|She|He|My friend) has {a} (stamps|marbles|coins|cookies) and (gets|buys|finds) {b} more. How many (in total|altogether|now)?",
    "There are {a} (red|big|old) and {b} (blue|small|new) (balls|cars|hats). How many (are there|) in total?",
    "How (much|many) (is|are|make|makes) {a} (and|plus|+) {b} (together|in total|)?",
    "{a} (increased by|more than) {b}(?| is what?)",
)
_DIFFERENCE_PATTERNS = (
    "{a} - {b}",
    "{a}-{b}",
    "{a}(-| - | – | − ){b}( =| = ?|=|=?|?)",
    "{a} (minus|less|take away) {b}(?|)",
    f"{_ASK} {{a}} - {{b}}(?|)",
    "What is {a} - {b}?",
    f"{_ASK} {{a}}-{{b}}(?|)",
    f"{_ASK} {{a}} (minus|take away) {{b}}(?|.)",
    "(Subtract|Take|Take away|Deduct|Please subtract|Can you subtract) {b} from {a}(.|?|)",
    "What (is|do you get|do I get|is left) (if|when) (you|I|we) (subtract|take|take away) {b} from {a}?",
    "I (have|had) {a} (apples|books|coins|cards|eggs|pens) and (lose|sell|eat|give away|spend) {b}. How many (do I have|are) left?",
    "(Anna|Tom|She|He|My friend) (has|had) {a} (stamps|marbles|coins|cookies) and (lost|sold|gives away) {b}. How many (are left|remain|now)?",
    "{a} (decreased|reduced) by {b}(?| is what?)",
)
SUMS = Wordings("sum wording", _SUM_PATTERNS)
DIFFERENCES = Wordings("difference wording", _DIFFERENCE_PATTERNS)


def draw(rng: Random, *, held_out: bool) -> Turn:
    """Draw a question about a pair of operands of the wanted side of the split."""
    a, b = draw_operands(rng, held_out=held_out)
    if rng.random() < 0.5:
        wording, sign, result = SUMS.any(rng), "+", a + b
        steps, again = sum_steps(a, b), sum_steps(b, a)
    else:
        wording = DIFFERENCES.any(rng)
        if "left" in wording or "remain" in wording or "now" in wording:
            a, b = max(a, b), min(a, b)
        sign, result = "-", a - b
        steps = again = difference_steps(a, b)
    kind = "sum" if sign == "+" else "difference"
    reasoning = Reasoning(
        low=f"{steps}.",
        medium=f"The user asks for a {kind}. {steps}.",
        high=f"The user asks for a {kind}. I go digit by digit. {steps}. I check it. {again}.",
    )
    question = restyle(rng, wording).format(a=a, b=b)
    return Turn("sums", question, reasoning, f"{a} {sign} {b} = {result}.", str(result))


def draw_operands(rng: Random, *, held_out: bool) -> tuple[int, int]:
    """Draw two numbers whose pair, in either order, is of the wanted side of the split."""
    while True:
        pair = rng.randrange(LIMIT), rng.randrange(LIMIT)
        if rng.random() < 0.1:
            pair = pair[0] % 10, pair[1] % 20
        if is_held_out("operands", f"{min(pair)},{max(pair)}") == held_out:
            return pair


def sum_steps(a: int, b: int) -> str:
    """The sum of the ones, then that of the tens with the carry, then the result."""
    ones = a % 10 + b % 10
    carry = ones // 10
    tens = a // 10 + b // 10 + carry
    return f"{a}+{b}:{a % 10}+{b % 10}={ones},{a // 10}+{b // 10}+{carry}={tens};{a + b}"


def comparison(a: int, b: int) -> str:
    """Two numbers and which is larger, in the one form in which reasoning compares."""
    return f"{a}-{b}:{'<' if a < b else '=' if a == b else '>'}"


def difference_steps(a: int, b: int) -> str:
    """Which number is larger, the difference of the ones (ten borrowed if need be), that of the tens, the result."""
    large, small = max(a, b), min(a, b)
    borrow = int(large % 10 < small % 10)
    ones = large % 10 + 10 * borrow
    tens = large // 10 - small // 10 - borrow
    return (
        f"{comparison(a, b)},{ones}-{small % 10}={ones - small % 10},"
        f"{large // 10}-{small // 10}-{borrow}={tens};{a - b}"
    )
