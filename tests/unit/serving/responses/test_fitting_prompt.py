import pytest

from gptoss_ray.harmony.prompt import Message
from gptoss_ray.serving.responses.fitting_prompt import fitting_prompt, room_for_prompt


def render(messages):
    """A token for each message, told by its content."""
    return [int(message.content) for message in messages]


def conversation(*roles):
    return [Message(role, str(number)) for number, role in enumerate(roles)]


TURNS = conversation("system", "developer", "user", "assistant", "user", "tool", "assistant", "user")


@pytest.mark.parametrize(
    ("max_tokens", "prompt"),
    [
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (7, [0, 1, 4, 5, 6, 7]),
        (6, [0, 1, 4, 5, 6, 7]),
        (5, [0, 1, 7]),
        (3, [0, 1, 7]),
        (2, [0, 1, 7]),
    ],
)
def test_as_many_of_the_last_turns_as_fit_stay_behind_the_instructions(max_tokens, prompt):
    assert fitting_prompt(render, TURNS, max_tokens) == prompt


def test_a_conversation_of_one_turn_stays_as_it_is():
    assert fitting_prompt(render, conversation("user", "assistant"), 1) == [0, 1]
    assert fitting_prompt(render, conversation("developer"), 0) == [0]


def test_a_long_conversation_is_rendered_few_times():
    num_renders = 0

    def counting(messages):
        nonlocal num_renders
        num_renders += 1
        return render(messages)

    roles = ["user", "assistant"] * 512
    assert len(fitting_prompt(counting, conversation(*roles), 100)) == 100
    assert num_renders <= 12


def test_room_is_left_for_the_output_but_never_more_than_half():
    assert room_for_prompt(800, 100) == 700
    assert room_for_prompt(800, 5000) == 400
    assert room_for_prompt(800, None) == 700
