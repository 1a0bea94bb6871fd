"""`gptoss-ray checkpoint inspect | verify | manifest | make`."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gptoss_ray.checkpoint.hub import resolve_folder
from gptoss_ray.checkpoint.manifest import MANIFEST_NAME, write_manifest
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.commands.byte_progress import byte_progress
from gptoss_ray.errors import CheckpointError, ConfigError
from gptoss_ray.harmony.tokenizer_files import write_tokenizer
from gptoss_ray.harmony.vocabulary import MIN_NUM_CONTROL_TOKENS, control_tokens, shipped_ranks

if TYPE_CHECKING:
    from gptoss_ray.checkpoint.summary import Summary

checkpoint_app = typer.Typer(help="Look at, check and make checkpoints.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(help="A folder, a hub id such as openai/gpt-oss-20b, or `demo`.")]
_MAX_SHOWN_DEFECTS = 50
# A byte-level tokenizer has a token for every byte.
_NUM_BYTES = 256


@checkpoint_app.command()
def inspect(source: Source) -> None:
    """Print the shape of a model, its files, and what its parts weigh."""
    from gptoss_ray.checkpoint.reader import CheckpointReader  # noqa: PLC0415  (imports torch)
    from gptoss_ray.checkpoint.summary import summarize  # noqa: PLC0415  (imports torch)

    reader = CheckpointReader.open(source)
    summary = summarize(reader)
    console = Console()
    console.print(f"[bold]{escape(str(reader.folder))}[/]  ({reader.layout} layout)", highlight=False)
    console.print(_shape_table(reader.config))
    console.print(_size_table(summary))
    for name, num_bytes in summary.shard_bytes.items():
        console.print(f"{escape(name)}  {_gigabytes(num_bytes)}", highlight=False)
    console.print(
        f"{summary.num_parameters / 1e6:.4g} million parameters; "
        f"one decoded token reads {_gigabytes(summary.bytes_per_token)}",
        highlight=False,
    )


@checkpoint_app.command()
def verify(
    source: Source,
    fast: Annotated[bool, typer.Option(help="Check structure and tokenizer, not the values.")] = False,
) -> None:
    """Find every defect of a checkpoint; exit code 1 if there is one."""
    from gptoss_ray.checkpoint.verify import verify_checkpoint  # noqa: PLC0415  (imports torch)

    folder = resolve_folder(source)
    with byte_progress("verifying") as progress:
        defects = verify_checkpoint(folder, fast=fast, progress=progress)
    console = Console(soft_wrap=True)
    for defect in defects[:_MAX_SHOWN_DEFECTS]:
        console.print(f"[red]defect[/] {escape(str(defect))}", highlight=False)
    if len(defects) > _MAX_SHOWN_DEFECTS:
        console.print(f"… and {len(defects) - _MAX_SHOWN_DEFECTS} more")
    if defects:
        count = "1 defect" if len(defects) == 1 else f"{len(defects)} defects"
        raise CheckpointError(f"{folder}: {count}; do not serve it")
    files = ", files by SHA256SUMS" if (folder / MANIFEST_NAME).exists() else ""
    scope = "structure and tokenizer" if fast else f"structure, tokenizer, values{files}"
    console.print(f"[green]sound[/] {escape(str(folder))}: {scope} checked", highlight=False)


@checkpoint_app.command()
def manifest(
    source: Source,
    force: Annotated[bool, typer.Option(help="Write it anew where there is one.")] = False,
) -> None:
    """Write SHA256SUMS into a checkpoint's folder, so that every copy of it can be told from any other."""
    folder = resolve_folder(source)
    path = folder / MANIFEST_NAME
    if path.exists() and not force:
        raise CheckpointError(
            f"{path} is there already; `gptoss-ray checkpoint verify` checks it, --force writes it anew"
        )
    with byte_progress("hashing") as progress:
        write_manifest(folder, progress)
    Console(soft_wrap=True).print(f"[green]written[/] {escape(str(path))}", highlight=False)


@checkpoint_app.command()
def make(
    folder: Annotated[Path, typer.Argument(help="Where to write; must not hold a checkpoint yet.")],
    model: Annotated[
        Literal["gpt-oss-20b", "gpt-oss-120b", "tiny"], typer.Option(help="The shape to start from.")
    ] = "tiny",
    layers: Annotated[
        int | None, typer.Option(min=1, help="Number of layers, if not the model's own.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the shape.")
    ] = None,
    layout: Annotated[
        Literal["huggingface", "original"], typer.Option(help="Which published layout to write.")
    ] = "huggingface",
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = 0,
) -> None:
    """Write a random checkpoint with a fitting tokenizer, streaming to disk."""
    from gptoss_ray.checkpoint.synthetic import write_checkpoint  # noqa: PLC0415  (imports torch)

    config, num_ranks = make_config(model, layers, changes or [])
    with byte_progress("writing") as progress:
        write_checkpoint(folder, config, layout=layout, seed=seed, progress=progress)
    write_tokenizer(folder, num_ranks, config.vocab_size)
    Console().print(f"[green]written[/] {escape(str(folder))}", highlight=False)


def make_config(model: str, layers: int | None, changes: list[str]) -> tuple[ModelConfig, int]:
    """Return the config that `make` was asked for, and how many ranks its tokenizer keeps."""
    from gptoss_ray.checkpoint.synthetic import tiny_config  # noqa: PLC0415  (imports torch)

    fields: dict[str, object] = dict(_parse_change(change) for change in changes)
    if layers is not None:
        fields["num_layers"] = layers
    base = tiny_config() if model == "tiny" else ModelConfig.published(model)
    vocab_size = int(str(fields.get("vocab_size", base.vocab_size)))
    num_ranks = min(len(shipped_ranks()), vocab_size - MIN_NUM_CONTROL_TOKENS)
    if num_ranks < _NUM_BYTES:
        needed = _NUM_BYTES + MIN_NUM_CONTROL_TOKENS
        raise ConfigError(f"vocab_size is {vocab_size}; a tokenizer needs at least {needed}")
    ids = control_tokens(num_ranks, vocab_size)
    tokens = {"eos_token_ids": (ids["<|return|>"],), "pad_token_id": ids["<|endoftext|>"]}
    return base.replace(**(tokens | fields)), num_ranks


def _parse_change(change: str) -> tuple[str, object]:
    kinds = {
        field.name: {"int": int, "float": float}[str(field.type)]
        for field in dataclasses.fields(ModelConfig)
        if field.type in ("int", "float")
    }
    name, _, text = change.partition("=")
    if name not in kinds:
        nearest = difflib.get_close_matches(name, kinds, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(kinds)}"
        raise ConfigError(f"--set {change}: no field is called {name!r}; {hint}")
    try:
        return name, kinds[name](text)
    except ValueError:
        raise ConfigError(f"--set {change}: {text!r} is no {kinds[name].__name__}") from None


def _shape_table(config: ModelConfig) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    heads = f"{config.num_attention_heads} query, {config.num_key_value_heads} KV, {config.head_dim} wide"
    window = f"{config.sliding_window} on {sum(map(config.is_sliding, range(config.num_layers)))} layers"
    for name, value in {
        "layers": config.num_layers,
        "hidden / intermediate": f"{config.hidden_size} / {config.intermediate_size}",
        "attention heads": heads,
        "sliding window": window,
        "experts": f"{config.num_experts}, {config.num_experts_per_token} per token, {config.expert_format}",
        "vocabulary": config.vocab_size,
        "context": f"{config.max_context}, YaRN over {config.rope_original_context}",
    }.items():
        table.add_row(name, str(value))
    return table


def _size_table(summary: Summary) -> Table:
    table = Table("part", "size", "share", box=None, padding=(0, 2, 0, 0))
    total = sum(summary.bytes_by_kind.values())
    for kind, num_bytes in summary.bytes_by_kind.items():
        table.add_row(kind, _gigabytes(num_bytes), f"{100 * num_bytes / total:.1f} %")
    table.add_row("all", _gigabytes(total), "")
    return table


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"
