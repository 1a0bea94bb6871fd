from __future__ import annotations

from gptoss_ray.parallel.expert_placement import LayerPlacement, contiguous
from gptoss_ray.ranks.group_layout import GroupLayout
from gptoss_ray.ranks.recovery import RankId

RANKS = [RankId(number) for number in range(3)]
FIRST = GroupLayout.first(3, 2, 6)


def test_ranks_load_the_experts_in_order():
    assert GroupLayout(tuple(RANKS), (contiguous(6, 3),) * 2, 0) == FIRST


def test_the_next_epoch_has_its_members_in_order_and_newer_experts():
    survivors = frozenset({RANKS[0], RANKS[2]})
    following = FIRST.of_next(survivors, 3, 0)
    assert following.members == (RANKS[0], RANKS[2])
    assert following.placements == (LayerPlacement(((0, 1, 2), (4, 5, 3))),) * 2
    assert following.version > FIRST.version + 1  # that of a swap which may be under way


def test_a_replacement_brings_what_its_number_loads():
    survivors = frozenset({RANKS[0], RANKS[2]})
    whole = FIRST.of_next(survivors, 3, 0).of_next(survivors | {RankId(1, 1)}, 3, 0)
    assert whole.members == (RANKS[0], RankId(1, 1), RANKS[2])
    assert whole.placements == FIRST.placements


def test_hosts_go_by_rank():
    hosts = {RANKS[0]: "a", RANKS[1]: "b", RANKS[2]: "c"}
    assert FIRST.of_next(frozenset(RANKS[1:]), 3, 0).hosts(hosts) == ("b", "c")


def test_a_layout_fits_while_no_rank_has_more_than_its_share_and_spare_slots():
    assert FIRST.fits(0)
    copies = GroupLayout(FIRST.members, (LayerPlacement(((0, 1, 2), (2, 3), (4, 5))),), 1)
    assert not copies.fits(0)
    assert copies.fits(1)
