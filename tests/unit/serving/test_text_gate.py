from hypothesis import given
from hypothesis import strategies as st

from gptoss_ray.serving.text_gate import TextGate

STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)
PIECES = st.lists(st.text("abc", max_size=4), max_size=12)


def passed_through(gate: TextGate[int], pieces: list[str]) -> tuple[str, list[int]]:
    text, entries = "", []
    for index, piece in enumerate(pieces):
        more = gate.feed(piece, [index])
        text, entries = text + more[0], entries + more[1]
        if gate.stopped:
            return text, entries
    last = gate.flush()
    return text + last[0], entries + last[1]


@given(STOPS, PIECES)
def test_text_ends_before_the_first_stop_string_however_it_was_cut(stops, pieces):
    whole = "".join(pieces)
    gate: TextGate[int] = TextGate(stops)
    text, _ = passed_through(gate, pieces)
    # The first stop string is the one that is complete first.
    end = next((end for end in range(len(whole) + 1) if any(whole[:end].endswith(s) for s in stops)), None)
    if end is None:
        assert text == whole
        assert not gate.stopped
    else:
        assert gate.stopped
        assert not any(stop in text for stop in stops)
        assert whole.startswith(text)


def test_text_that_cannot_begin_a_stop_string_leaves_at_once():
    gate: TextGate[int] = TextGate(["\n\n"])
    assert gate.feed("one\n") == ("one", [])
    assert gate.feed("two") == ("\ntwo", [])


def test_a_stop_string_over_several_tokens_is_found_and_not_shown():
    gate: TextGate[int] = TextGate(["STOP"])
    assert gate.feed("goS") == ("go", [])
    assert gate.feed("TO") == ("", [])
    assert gate.feed("P on") == ("", [])
    assert gate.stopped


def test_entries_tell_of_exactly_the_text_that_left():
    gate: TextGate[str] = TextGate(["xyz"])
    assert gate.feed("a", ["A"]) == ("a", ["A"])
    assert gate.feed("x", ["X"]) == ("", [])
    assert gate.feed("b", ["B"]) == ("xb", ["X", "B"])
    assert gate.feed("x", ["X2"]) == ("", [])
    assert gate.feed("yz", ["YZ"]) == ("", [])
    assert gate.flush() == ("", [])


def test_what_is_held_back_leaves_when_no_text_follows():
    gate: TextGate[str] = TextGate(["xyz"])
    gate.feed("xy", ["XY"])
    assert gate.flush() == ("xy", ["XY"])


def test_an_entry_behind_text_without_entries_waits_for_text_of_its_own():
    gate: TextGate[str] = TextGate()
    assert gate.feed("abc") == ("abc", [])
    assert gate.feed("", ["D"]) == ("", [])
    assert gate.feed("d") == ("d", ["D"])
