"""Counting up and down, and counting words or things. Held out: wordings."""

# ruff: noqa: E501  (a wording stands on one line)

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from gptoss_ray.demo_training.skills.sums import comparison
from gptoss_ray.demo_training.turn import Reasoning, Turn, copied
from gptoss_ray.demo_training.wording import Wordings, restyle
from gptoss_ray.demo_training.words import COMMON_WORDS, ITEMS, made_up_word, name

_COUNT = "(Count|Please count|Can you count|Could you count|I want you to count|Start counting|Count for me|Let us count|Now count|Would you count|You should count|Try to count)"
_LIST = (
    "(List|Write|Give me|Say|Print|Show|Show me|Name|Tell me|Write down|Recite|Enumerate|Output|Type|I need)"
)
UP = Wordings(
    "count up wording",
    (
        f"{_COUNT} from {{a}} to {{b}}(.|?|!|)",
        f"{_COUNT} from {{a}} (up to|until|till|through) {{b}}(.|?|)",
        f"{_COUNT} (up|upwards|forward|forwards) from {{a}} to {{b}}(.|?|)",
        f"{_LIST} (the|all|all the|all whole) numbers from {{a}} to {{b}}(.|)",
        f"{_LIST} (the|all|all the) numbers between {{a}} and {{b}}, both included(.|)",
        f"{_LIST} the (numbers|integers|whole numbers) {{a}} (to|through|up to) {{b}}(.|)",
        "(counting|count|numbers|numbers from) {a} to {b}",
        "(What are|Which are) the numbers from {a} to {b}?",
        "(Begin|Start) (at|with) {a} and (count|count up|go up|go on|go) to {b}(.|)",
        "From {a} to {b}(, please count|, count)(.|)",
    ),
)
DOWN = Wordings(
    "count down wording",
    (
        f"{_COUNT} (down|backwards|backward|in reverse|back) from {{a}} to {{b}}(.|?|!|)",
        f"{_COUNT} from {{a}} (down to|back to|backwards to) {{b}}(.|?|)",
        f"{_COUNT} from {{a}} to {{b}} (backwards|in reverse|backward)(.|?|)",
        f"{_LIST} (the|all) numbers from {{a}} (down to|back to|backwards to) {{b}}(.|)",
        "(Do|Start|Give me|Make) a countdown from {a} to {b}(.|)",
        "(Countdown|countdown|Count down) (from|) {a} to {b}",
        "(Begin|Start) (at|with) {a} and (count down|go down|count back|count backwards) to {b}(.|)",
    ),
)
TO = Wordings(
    "count to wording",
    (
        f"{_COUNT} (to|up to|until) {{b}}(.|?|!|)",
        f"{_LIST} the (first {{b}} numbers|numbers up to {{b}})(.|)",
        "(Can|Could) you count to {b} for me?",
    ),
)
WORDS = Wordings(
    "count words wording",
    (
        "How many words (are|do you see|can you find|are there|do you count) in(:| this:| this sentence:| the sentence:| the text:| the following:|) {t}",
        "(Count|Please count|Can you count|Tell me|Give me|Find) the (words|number of words) (in|of)(:| this:| this sentence:| this text:| the line:|) {t}",
        "How many words (has|does this have:|are here:|is this:|make up) {t}",
        "(Word count|Number of words|Words|How many words)(:| of:| in:) {t}",
        "{t} - how many words (are that|are these|is that|was that)?",
    ),
)
THINGS = Wordings(
    "count things wording",
    (
        "How many {n} (are|do you see|can you find|are there|do you count|do we have) (in|here)(:| this list:| the list:) {t}",
        "(Count|Please count|Can you count|Tell me|Find) (the|all|the number of) {n} (in|of)(:| this list:| the list:) {t}",
        "(How many|Number of|The number of|Count of) {n}(:| here:| in:) {t}",
        "{t}: how many {n} (is that|are that|are these|are there)?",
    ),
)
_KINDS = (("things", "thing"), ("items", "item"), ("entries", "entry"), ("objects", "object"))


def draw(rng: Random, *, held_out: bool) -> Turn:
    """Draw one of the kinds of counting in a wording of the wanted side of the split."""
    kind = rng.choices((_up, _down, _to, _words, _things), (5, 4, 2, 5, 4))[0]
    return kind(rng, held_out)


def _up(rng: Random, held_out: bool) -> Turn:
    first = rng.randrange(0, 20) if rng.random() < 0.6 else rng.randrange(0, 90)
    last = first + rng.randint(2, 11)
    return _sequence(rng, UP.pick(rng, held_out=held_out), first, last)


def _down(rng: Random, held_out: bool) -> Turn:
    last = rng.randrange(0, 15) if rng.random() < 0.6 else rng.randrange(0, 88)
    first = last + rng.randint(2, 11)
    return _sequence(rng, DOWN.pick(rng, held_out=held_out), first, last)


def _to(rng: Random, held_out: bool) -> Turn:
    return _sequence(rng, TO.pick(rng, held_out=held_out), 1, rng.randint(2, 20))


def _sequence(rng: Random, wording: str, first: int, last: int) -> Turn:
    step, way = (1, "up") if first < last else (-1, "down")
    numbers = ", ".join(map(str, range(first, last + step, step)))
    question = restyle(rng, wording).format(a=first, b=last)
    # Which way is seen from the numbers, as for a difference; words for it are many.
    compared = f"Count {comparison(first, last)} {way}."
    task = f"The user wants me to count. {compared} I start at {first}"
    reasoning = Reasoning(
        low=compared,
        medium=f"{task}.",
        high=f"{task}, go {way} by 1 each time, and stop at {last}. "
        f"The first number is {first} and the last is {last}.",
    )
    return Turn("counting", question, reasoning, f"{numbers}.", numbers)


def _words(rng: Random, held_out: bool) -> Turn:
    words = list(dict.fromkeys(_word(rng) for _ in range(rng.randint(1, 8))))
    text = " ".join(words)
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:] + rng.choice(("", "."))
        words[0] = words[0][0].upper() + words[0][1:]
    if rng.random() < 0.3:
        quote = rng.choice("\"'")
        text = quote + text + quote
    question = restyle(rng, WORDS.pick(rng, held_out=held_out).replace("{t}", "{t}\0"))
    question = _keep_text_last(question).format(t=text)
    return _count_turn(question, words, "word", "words")


def _word(rng: Random) -> str:
    style = rng.random()
    if style < 0.6:
        return rng.choice(COMMON_WORDS)
    return name(rng, held_out=False) if style < 0.9 else made_up_word(rng)


def _things(rng: Random, held_out: bool) -> Turn:
    plural, singular = rng.choice(_KINDS)
    listed = rng.sample([item for _, item in ITEMS], rng.randint(1, 8))
    question = restyle(rng, THINGS.pick(rng, held_out=held_out).replace("{t}", "{t}\0"))
    question = _keep_text_last(question).format(t=", ".join(listed), n=plural)
    return _count_turn(question, listed, singular, plural)


def _keep_text_last(question: str) -> str:
    """Drop what styling hung behind the counted text, which would belong to it."""
    text, _, tail = question.partition("\0")
    return (
        text if tail and not tail.lstrip().startswith(("- how", ": how", "- HOW", ": HOW")) else text + tail
    )


def _count_turn(question: str, items: Sequence[str], singular: str, plural: str) -> Turn:
    count = len(items)
    steps = " ".join(f"{copied(item)} {i}" for i, item in enumerate(items, 1))
    reasoning = Reasoning(
        low=f"I count: {steps}.",
        medium=f"I count the {plural} one by one: {steps}.",
        high=f"The user wants to know how many {plural} there are. I count the {plural} one by one: {steps}. "
        f"The last number is {count}, so the count is {count}.",
    )
    answer = f"There is 1 {singular}." if count == 1 else f"There are {count} {plural}."
    return Turn("counting", question, reasoning, answer, str(count))
