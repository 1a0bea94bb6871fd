from __future__ import annotations

from gptoss_ray.demo_training.attention_groups import AttentionGroup, Part, grouped

_PREFIX = range(300)


def _chat(start: int, length: int) -> Part:
    return Part((_PREFIX,), range(start, start + length))


def test_every_part_is_in_one_group_beside_parts_of_like_length() -> None:
    lengths = (40, 250, 45, 260, 50)
    parts = [Part((), _PREFIX), *(_chat(300 * n, length) for n, length in enumerate(lengths, 1))]
    groups = grouped(parts, 128)
    assert sorted(id(part) for group in groups for part in group) == sorted(map(id, parts))
    by_group = sorted(sorted(len(part.own) for part in group) for group in groups)
    assert by_group == [[40, 45, 50], [250, 260], [300]]


def test_keys_are_all_that_came_before_and_near_keys_what_a_window_reaches() -> None:
    group = AttentionGroup.of([_chat(300, 40), _chat(340, 33)], 128, 999)
    assert group.query_rows.shape == (2, 64)
    assert group.query_rows[1].tolist() == [*range(340, 373), *[999] * 31]
    assert group.key_rows.shape == (2, 352)
    assert group.key_rows[1].tolist() == [*_PREFIX, *range(340, 373), *[999] * 19]
    assert group.near_key_rows[1].tolist() == [*range(173, 300), *range(340, 373), *[999] * 32]
