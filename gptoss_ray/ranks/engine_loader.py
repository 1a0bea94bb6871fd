"""From a model's configuration to an engine: checkpoint, network, KV cache. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.config import EXPERT_MEMORY_SHARE, ServedModelConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.kernels.backend import select_backend
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.parallel.all_to_all import TokenExchange
from gptoss_ray.parallel.expert_placement import contiguous
from gptoss_ray.parallel.group_link import GroupLink
from gptoss_ray.parallel.step_sync import GroupStepSync
from gptoss_ray.planner.memory import experts_after_losses
from gptoss_ray.ranks.rank_experts import make_dispatcher
from gptoss_ray.structured.grammar_compiler import CheckpointGrammars


def load_engine(
    config: ServedModelConfig,
    rank: int,
    link: GroupLink | None,
    suppressed_token_ids: Sequence[int],
    progress: Callable[[float], None],
) -> Engine:
    """Load a rank's part of a checkpoint and build its engine.

    Args:
        config: The model, and how many ranks hold it.
        rank: Of this process, from 0.
        link: To the other ranks, which it may join later; None: the rank is alone.
        suppressed_token_ids: Ids that are never drawn.
        progress: Told the fraction loaded, 0 to 1.

    Raises:
        CheckpointError: A file is missing or wrong; the message names it and the tensor.
        ConfigError: The KV memory cannot hold what the configuration promises, there are more ranks than
            experts, or the kernels that it asks for cannot run.
    """
    engine, device = config.engine, config.parallel.device
    reader = CheckpointReader.open(config.checkpoint)
    grammars = CheckpointGrammars(reader.folder, reader.config.vocab_size)
    backend = select_backend(engine, reader.config, device)
    # Native kernels have threads of their own, and those of torch would only be in their way.
    torch.set_num_threads(1 if backend.is_native else engine.num_threads)

    def note(num_done: int, num_parts: int) -> None:
        progress(num_done / num_parts)

    if link is None:
        transformer = Transformer.load(reader, engine, device=device, progress=note)
        return Engine(
            transformer,
            engine,
            suppressed_token_ids=suppressed_token_ids,
            compile_grammar=grammars.compile,
        )
    model = reader.config
    exchange = TokenExchange(
        link,
        config.parallel,
        num_experts=model.num_experts,
        experts_per_token=model.num_experts_per_token,
        hidden_size=model.hidden_size,
        dtype=getattr(torch, engine.dtype),
        device=torch.device(device),
        largest_step=engine.max_num_batched_tokens,
    )
    placement = contiguous(model.num_experts, config.parallel.num_ranks)
    # No expert has a copy yet, so where ranks run does not matter to the routes.
    hosts = ("",) * config.parallel.num_ranks
    # Slots for copies and for experts of lost ranks are empty as yet; whether experts are unpacked is decided
    # for full ones.
    share_in_use = len(placement.local_slots(0)) / experts_after_losses(model, config.parallel)
    transformer = Transformer.load(
        reader,
        engine,
        device=device,
        expert_ids=[placement.local_slots(rank)] * model.num_layers,
        dispatchers=[make_dispatcher(exchange, placement, hosts) for _ in range(model.num_layers)],
        expert_memory_share=EXPERT_MEMORY_SHARE / config.parallel.num_ranks_per_node * share_in_use,
        progress=note,
    )
    return Engine(
        transformer,
        engine,
        step_sync=GroupStepSync(link, config.parallel),
        leave_group=link.leave,
        suppressed_token_ids=suppressed_token_ids,
        compile_grammar=grammars.compile,
    )
