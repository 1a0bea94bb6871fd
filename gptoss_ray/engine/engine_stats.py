"""EngineStats: what an engine tells of itself. Imports no torch: other processes read it, too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine at one moment; totals count from its start.

    Attributes:
        num_running: Sequences that own KV blocks.
        num_waiting: Sequences that wait for a seat or for blocks.
        kv_cache_usage: Share of KV blocks owned by sequences, 0 to 1.
        prefix_cache_queries: Tokens looked up in the prefix cache.
        prefix_cache_hits: Tokens found there.
        num_steps: Steps committed.
        num_prompt_tokens: Prompt tokens of all requests taken.
        num_generation_tokens: Tokens drawn.
        num_preemptions: Times a sequence lost its blocks to an earlier one.
        placement: Version of the experts in use, 0 at first.
        num_kv_blocks: KV blocks, in use or not.
        expert_load: How often tokens of this rank chose each expert [layers][E]; none of a rank alone.
        num_expert_rows: Rows that the experts of this rank worked on; 0 of a rank alone.
        all_to_all_s: Seconds in all-to-alls.
        num_drafts: Drafts that steps have checked.
        num_draft_tokens: Their tokens.
        num_accepted_tokens: Of them, those that became output.
    """

    num_running: int
    num_waiting: int
    kv_cache_usage: float
    prefix_cache_queries: int
    prefix_cache_hits: int
    num_steps: int
    num_prompt_tokens: int
    num_generation_tokens: int
    num_preemptions: int
    placement: int
    num_kv_blocks: int = 0
    expert_load: tuple[tuple[int, ...], ...] = ()
    num_expert_rows: int = 0
    all_to_all_s: float = 0.0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
