"""The command `gptoss-ray`: one clear line on error, exit code 1."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from gptoss_ray.commands.bench import bench_app
from gptoss_ray.commands.chat import chat
from gptoss_ray.commands.checkpoint import checkpoint_app
from gptoss_ray.commands.doctor import doctor
from gptoss_ray.commands.down import down
from gptoss_ray.commands.generate import generate
from gptoss_ray.commands.keys import keys_app
from gptoss_ray.commands.plan import plan
from gptoss_ray.commands.status import status
from gptoss_ray.commands.up import up
from gptoss_ray.errors import GptossError
from gptoss_ray.serving.proxy_choice import ProxyChoice

app = typer.Typer(
    name="gptoss-ray",
    help="Serve gpt-oss-20b and gpt-oss-120b on your own machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(chat)
app.command()(generate)
app.command()(doctor)
app.command()(plan)
app.command()(up)
app.command()(down)
app.command()(status)
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(keys_app, name="keys")
app.add_typer(bench_app, name="bench")


@app.command()
def serve(
    config: Annotated[str, typer.Argument(help="A file such as configs/demo.yaml.")],
    proxy: Annotated[
        ProxyChoice, typer.Option(help="What clients connect to: Serve's own, or HAProxy (faster; Linux).")
    ] = ProxyChoice.PYTHON,
) -> None:
    """Start Ray and Serve here, serve the models of CONFIG, stay up until Ctrl-C."""
    # Ray takes a second to import: only this command pays for it.
    from gptoss_ray.serving.launch import serve as launch  # noqa: PLC0415

    raise typer.Exit(launch(config, proxy))


def main() -> None:
    """Run the command line; an expected error is printed as one line."""
    try:
        app()
    except GptossError as error:
        Console(stderr=True, soft_wrap=True).print(
            f"[bold red]error:[/] {_plain(str(error))}", highlight=False
        )
        sys.exit(1)


def _plain(text: str) -> str:
    """Escape rich markup: an error may quote user input."""
    return text.replace("[", r"\[")


if __name__ == "__main__":
    main()
