from __future__ import annotations

import time
from collections import Counter
from random import Random

import pytest

from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.stream_parser import MAX_NUM_HEADER_TOKENS, Delta, StreamParser

Messages = list[tuple[str, str | None, str]]

CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"

MALFORMED: dict[str, Messages] = {
    # No header at all.
    "text with no header": [("final", None, "text with no header")],
    "Hello<|return|>": [("final", None, "Hello")],
    "analysis of this<|return|>": [("final", None, "analysis of this")],
    "<|message|>x<|return|>": [("final", None, "x")],
    # Words in the header.
    "<|channel|>analysis foo bar baz<|message|>x<|end|>": [("analysis", None, "x")],
    "<|channel|>commentary to=functions.web search json<|message|>{}<|call|>": [
        ("commentary", "functions.web", "{}")
    ],
    "<|channel|>commentary <|constrain|>json to=functions.f<|message|>{}<|call|>": [
        ("commentary", "functions.f", "{}")
    ],
    "<|channel|>commentary foo to=functions.f json<|message|>{}<|call|>": [
        ("commentary", "functions.f", "{}")
    ],
    "<|channel|>analysis<|channel|>commentary to=functions.f<|message|>{}<|call|>": [
        ("commentary", "functions.f", "{}")
    ],
    "<|channel|>commentary functions.f<|message|>{}<|call|>": [("commentary", "functions.f", "{}")],
    # A message without its start.
    "<|channel|>analysis<|message|>a<|end|>assistant<|channel|>final<|message|>b<|return|>": [
        ("analysis", None, "a"),
        ("final", None, "b"),
    ],
    "<|channel|>analysis<|message|>a<|end|><|channel|>final<|message|>b<|return|>": [
        ("analysis", None, "a"),
        ("final", None, "b"),
    ],
    "<|channel|>final<|message|>a<|end|> more": [("final", None, "a"), ("final", None, "more")],
    "<|channel|>analysis<|message|>a<|end|>user asked": [
        ("analysis", None, "a"),
        ("final", None, "user asked"),
    ],
    "<|end|><|end|>x<|return|>": [("final", None, "x")],
    # Behind a stop token.
    "<|channel|>final<|message|>a<|return|>comment": [("final", None, "a")],
    "<|channel|>final<|message|>a<|return|><|return|>": [("final", None, "a")],
    f"{CALL}{{}}<|call|><|start|>assistant{CALL}{{}}<|call|>": [("commentary", "functions.f", "{}")],
    # Roles.
    "<|start|>assistantanalysis<|message|>x<|end|>": [("analysis", None, "x")],
    "<|start|>banana<|message|>x<|end|>": [("final", None, "x")],
    "<|start|>assistant<|start|>assistant<|channel|>final<|message|>x<|return|>": [("final", None, "x")],
    "<|start|>Hello there<|return|>": [("final", None, "Hello there")],
    "<|channel|>analysis<|message|>a<|end|><|start|>user<|message|>b<|end|>": [("analysis", None, "a")],
    "<|message|>a<|end|><|start|>functions.f to=assistant<|channel|>commentary<|message|>b": [
        ("final", None, "a")
    ],
    # Channels.
    "<|channel|><|message|>x": [("final", None, "x")],
    "<|channel|>banana<|message|>x": [("final", None, "x")],
    "<|channel|>Analysis<|message|>x": [("analysis", None, "x")],
    "<|channel|>comment<|message|>x": [("commentary", None, "x")],
    "<|channel|>commentary?<|message|>x": [("commentary", None, "x")],
    "<|channel|>analysis––commentary<|message|>x": [("analysis", None, "x")],
    "analysis<|message|>x": [("analysis", None, "x")],
    "analysisWe need<|end|><|start|>assistantfinalHello<|return|>": [
        ("analysis", None, "We need"),
        ("final", None, "Hello"),
    ],
    # Content types that openai-harmony takes for recipients, and recipients that are not called.
    "<|channel|>final <|constrain|>json<|message|>{}<|return|>": [("final", None, "{}")],
    "<|channel|>final json<|message|>x<|return|>": [("final", None, "x")],
    "<|channel|>commentary to=user<|message|>x<|end|>": [("commentary", None, "x")],
    # No `<|message|>`.
    "<|channel|>final The answer is 42.<|return|>": [("final", None, "The answer is 42.")],
    '<|channel|>commentary to=functions.f <|constrain|>json{"a":1}<|call|>': [
        ("commentary", "functions.f", '{"a":1}')
    ],
    '<|channel|>commentary to=functions.f {"a":1}<|call|>': [("commentary", "functions.f", '{"a":1}')],
    "<|channel|>commentary to=functions.f<|call|>": [("commentary", "functions.f", "")],
    "<|channel|>analysis<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>": [
        ("final", None, "x")
    ],
    # Control tokens inside content.
    "<|channel|>analysis<|message|>a<|channel|>final<|message|>b<|return|>": [
        ("analysis", None, "a"),
        ("final", None, "b"),
    ],
    "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b<|return|>": [
        ("analysis", None, "a"),
        ("final", None, "b"),
    ],
    "<|channel|>final<|message|>a<|message|>b<|constrain|>c<|reserved_200013|>d<|startoftext|><|return|>": [
        ("final", None, "abcd")
    ],
    "<|channel|>final<|message|>a<|endoftext|>": [("final", None, "a")],
    "<|channel|>fi<|reserved_200001|>nal<|message|>a": [("final", None, "a")],
    # Cut off.
    "": [],
    "<|start|>assis": [],
    "<|channel|>anal": [],
    "<|channel|>commentary to=": [],
    "<|channel|>commentary to=functions.f <|constrain|>js": [],
}


def parse(
    encoding: HarmonyEncoding, token_ids: list[int], *, chunk: int = 1_000_000
) -> tuple[Messages, StreamParser]:
    """Return (channel, recipient, text) of each message, feeding `chunk` tokens at a time."""
    parser = StreamParser(encoding)
    deltas: list[Delta] = []
    for position in range(0, len(token_ids), chunk):
        deltas += parser.feed(token_ids[position : position + chunk])
    deltas += parser.finish()
    messages: dict[int, tuple[str, str | None, str]] = {}
    for delta in deltas:
        assert delta.starts_message == (delta.message_index not in messages)
        text = messages.get(delta.message_index, ("", None, ""))[2] + delta.text
        messages[delta.message_index] = (delta.channel, delta.recipient, text)
    assert list(messages) == list(range(len(messages)))
    return list(messages.values()), parser


@pytest.mark.parametrize("output", MALFORMED)
def test_malformed_output_is_repaired(output: str, encoding: HarmonyEncoding) -> None:
    token_ids = encoding.encode_with_special(output)
    messages, parser = parse(encoding, token_ids)
    assert messages == MALFORMED[output]
    one_by_one, other = parse(encoding, token_ids, chunk=1)
    assert one_by_one == messages
    assert other.repairs == parser.repairs


@pytest.mark.parametrize(
    ("output", "repairs"),
    [
        ("<|channel|>final<|message|>a<|return|>", {}),
        (f"{CALL}{{}}<|call|>", {}),
        ("Hello<|return|>", {"no_header": 1}),
        ("<|channel|>final<|message|>a<|end|> more", {"no_header": 1}),
        ("<|channel|>analysis<|message|>a<|end|>assistant<|channel|>final<|message|>b", {"no_start": 1}),
        ("<|channel|>final The answer is 42.<|return|>", {"no_message": 1}),
        ("<|channel|>analysis foo bar<|message|>x<|end|>", {"header_words": 1}),
        ("<|channel|>banana<|message|>x", {"unknown_channel": 1}),
        ("<|message|>x<|return|>", {"unknown_channel": 1}),
        ("<|channel|>analysis<|message|>a<|channel|>final<|message|>b", {"no_end": 1}),
        ("<|channel|>final<|message|>a<|message|>b<|constrain|>c", {"stray_token": 2}),
        ("<|channel|>final<|message|>a<|end|><|start|>user<|message|>b", {"foreign_speaker": 1}),
        ("<|channel|>final<|message|>a<|return|>comment", {"behind_end": 1}),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1_000])
def test_every_repair_is_counted_by_its_kind(
    output: str, repairs: dict[str, int], chunk: int, encoding: HarmonyEncoding
) -> None:
    parser = parse(encoding, encoding.encode_with_special(output), chunk=chunk)[1]
    assert parser.repairs == Counter(repairs)


def test_bytes_that_are_no_utf8_are_counted_and_the_models_own_replacement_characters_are_not(
    encoding: HarmonyEncoding,
) -> None:
    opening = encoding.encode_with_special("<|channel|>final<|message|>")
    half = encoding.encode("⋍")[:-1]
    token_ids = [*opening, *encoding.encode("\ufffd"), *half, *encoding.encode("a"), *half, encoding.return_]
    messages, parser = parse(encoding, token_ids, chunk=1)
    assert messages == [("final", None, "\ufffd\ufffda\ufffd")]
    assert parser.repairs == {"bad_utf8": 2}


def test_an_output_cut_inside_a_character_is_not_malformed(encoding: HarmonyEncoding) -> None:
    token_ids = encoding.encode_with_special("<|channel|>final<|message|>a⋍")[:-1]
    messages, parser = parse(encoding, token_ids)
    assert messages == [("final", None, "a\ufffd")]
    assert not parser.repairs


@pytest.mark.parametrize("output", [output for output in MALFORMED if "reserved" not in output])
def test_a_small_vocabulary_is_parsed_the_same(output: str, small_encoding: HarmonyEncoding) -> None:
    assert parse(small_encoding, small_encoding.encode_with_special(output))[0] == MALFORMED[output]


@pytest.mark.parametrize("output", MALFORMED)
def test_output_cut_anywhere_shows_no_more_than_the_whole(output: str, encoding: HarmonyEncoding) -> None:
    token_ids = encoding.encode_with_special(output)
    whole = parse(encoding, token_ids)[0]
    for length in range(len(token_ids)):
        messages = parse(encoding, token_ids[:length])[0]
        assert len(messages) <= len(whole) + 1
        for _, _, text in messages:
            assert "<|" not in text
            assert "assis" not in text


def test_20000_random_token_sequences_parse_without_error_or_markup(encoding: HarmonyEncoding) -> None:
    random = Random(5)
    control = [encoding.start, encoding.end, encoding.message, encoding.channel, encoding.constrain]
    control += [200_013, 201_088, 10**7]
    stops = list(encoding.stop_token_ids)
    words = [
        encoding.encode(word)
        for word in (
            *("assistant", "user", "tool", "analysis", "commentary", "final", " to=functions.f", " json"),
            *("json", "functions", "to", "=", " ", "\n", "Hello", " world", "x", "😀", "あ", '{"a":1}'),
        )
    ]
    byte_tokens = [[encoding.encode("é")[0]], *([rank] for rank in range(188, 256))]
    for _ in range(20_000):
        token_ids: list[int] = []
        for _ in range(random.randrange(1, 16)):
            choice = random.random()
            if choice < 0.45:
                token_ids.append(random.choice(control))
            elif choice < 0.48:
                token_ids.append(random.choice(stops))
            elif choice < 0.55:
                token_ids += random.choice(byte_tokens)
            else:
                token_ids += random.choice(words)
        messages, parser = parse(encoding, token_ids)
        one_by_one, other = parse(encoding, token_ids, chunk=1)
        assert one_by_one == messages, token_ids
        assert other.repairs == parser.repairs
        assert other.num_tool_calls == parser.num_tool_calls
        assert other.num_reasoning_tokens == parser.num_reasoning_tokens
        assert not any("<|" in text or "\udc80" <= text[:1] <= "\udfff" for _, _, text in messages)


@pytest.mark.parametrize("chunk", [1, 3, 1_000])
def test_each_delta_says_which_tokens_made_it(chunk: int, encoding: HarmonyEncoding) -> None:
    output = (
        "<|channel|>analysis<|message|>Thinking 😀👩‍👧 in あいう 漢字 ⋍<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Größe 🇩🇪 ok<|return|>"
    )
    token_ids = encoding.encode_with_special(output)
    parser = StreamParser(encoding)
    deltas = [
        delta
        for position in range(0, len(token_ids), chunk)
        for delta in parser.feed(token_ids[position : position + chunk])
    ]
    covered = []
    for message_index in (0, 1):
        pieces = [delta for delta in deltas if delta.message_index == message_index and delta.num_tokens]
        tokens = [i for d in pieces for i in range(d.first_token, d.first_token + d.num_tokens)]
        assert tokens == list(range(tokens[0], tokens[-1] + 1))
        text = encoding.decode_bytes(token_ids[i] for i in tokens).decode()
        assert text == "".join(delta.text for delta in pieces)
        covered += tokens
    text_tokens = [i for i, token_id in enumerate(token_ids) if not encoding.is_special(token_id)]
    header_words = [encoding.encode(word)[0] for word in ("analysis", "assistant", "final")]
    assert covered == [i for i in text_tokens if token_ids[i] not in header_words]


def test_half_a_character_waits_for_its_other_half(encoding: HarmonyEncoding) -> None:
    parser = StreamParser(encoding)
    parser.feed(encoding.encode_with_special("<|channel|>final<|message|>"))
    token_ids = encoding.encode("⋍")
    assert len(token_ids) > 1
    for token_id in token_ids[:-1]:
        assert parser.feed([token_id]) == []
    (delta,) = parser.feed(token_ids[-1:])
    assert (delta.text, delta.first_token, delta.num_tokens) == ("⋍", 3, len(token_ids))


@pytest.mark.parametrize("ending", ["<|return|>", ""])
def test_half_a_character_at_the_end_becomes_the_replacement_character(
    ending: str, encoding: HarmonyEncoding
) -> None:
    opening = encoding.encode_with_special("<|channel|>final<|message|>a")
    token_ids = [*opening, *encoding.encode("⋍")[:-1], *encoding.encode_with_special(ending)]
    assert parse(encoding, token_ids)[0] == [("final", None, "a\ufffd")]


def test_reasoning_tokens_are_those_of_the_analysis_text(encoding: HarmonyEncoding) -> None:
    reasoning, answer = encoding.encode("We add 17 and 25."), encoding.encode("It is 42.")
    token_ids = [
        *encoding.encode_with_special("<|channel|>analysis<|message|>"),
        *reasoning,
        *encoding.encode_with_special("<|end|><|start|>assistant<|channel|>final<|message|>"),
        *answer,
        encoding.return_,
    ]
    for chunk in (1, 1_000):
        assert parse(encoding, token_ids, chunk=chunk)[1].num_reasoning_tokens == len(reasoning)


@pytest.mark.parametrize(
    ("output", "hint", "num_tool_calls"),
    [
        ("<|channel|>final<|message|>a<|return|>", "stop", 0),
        ("<|channel|>final<|message|>a<|endoftext|>", "stop", 0),
        ("<|channel|>final<|message|>a", None, 0),
        (f"{CALL}{{}}<|call|>", "tool_calls", 1),
        (f"{CALL}{{}}<|return|>", "tool_calls", 1),
        (f"{CALL}{{}}<|end|><|start|>assistant{CALL}{{}}<|call|>", "tool_calls", 2),
        (f"{CALL}{{", None, 0),
        ("<|channel|>analysis to=python code<|message|>1<|call|>", "stop", 0),
        ("<|channel|>final<|message|>a<|end|><|start|>user<|message|>", "stop", 0),
    ],
)
def test_the_finish_reason_follows_from_the_output(
    output: str, hint: str | None, num_tool_calls: int, encoding: HarmonyEncoding
) -> None:
    parser = parse(encoding, encoding.encode_with_special(output))[1]
    assert parser.finish_reason_hint == hint
    assert parser.num_tool_calls == num_tool_calls
    assert parser.is_done == (hint is not None)


def test_a_message_starts_and_ends_with_a_delta_of_its_own(encoding: HarmonyEncoding) -> None:
    deltas = StreamParser(encoding).feed(encoding.encode_with_special(f"{CALL}{{}}<|call|>"))
    assert [(d.starts_message, d.text, d.ends_message) for d in deltas] == [
        (True, "", False),
        (False, "{}", False),
        (False, "", True),
    ]
    assert {delta.function_name for delta in deltas} == {"f"}


def test_text_without_a_header_is_shown_at_once(encoding: HarmonyEncoding) -> None:
    deltas = StreamParser(encoding).feed(encoding.encode("Hello"))
    assert [delta.text for delta in deltas] == ["", "Hello"]


def test_a_header_that_never_ends_is_shown_as_text(encoding: HarmonyEncoding) -> None:
    text = " word" * (2 * MAX_NUM_HEADER_TOKENS)
    parser = StreamParser(encoding)
    deltas = parser.feed(encoding.encode_with_special(f"<|channel|>final{text}"))
    assert "".join(delta.text for delta in deltas) == text.lstrip()


def test_a_function_with_the_longest_name_fits_into_a_header(encoding: HarmonyEncoding) -> None:
    name = "q7_x-Zj.9" * 7 + "k"
    header = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    messages, parser = parse(encoding, encoding.encode_with_special(header + "{}<|call|>"), chunk=1)
    assert messages == [("commentary", f"functions.{name}", "{}")]
    assert not parser.repairs


@pytest.mark.parametrize("piece", ["<|channel|>x", "\n\n", "<|start|>", "<|end|>assistant", " to=", "a"])
def test_parsing_takes_linear_time_whatever_repeats(piece: str, encoding: HarmonyEncoding) -> None:
    token_ids = encoding.encode_with_special(piece) * 20_000
    started = time.process_time()
    parse(encoding, token_ids)
    assert time.process_time() - started < 5  # quadratic: minutes
