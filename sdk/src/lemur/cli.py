"""The command line. A command is one call into the library, and printing.

Exit codes: 0 done; 1 failed; 2 the recipe cannot be run as written; 3 the gate refused the model; 4 storage;
5 a damaged or missing object; 6 training; 7 no sandbox; 8 serving; 130 interrupted.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from lemur.errors import LemurError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="One recipe in, a served language agent out.\n\n"
    "Start with [bold]lemur plan recipes/quickstart.yaml[/bold], then [bold]lemur run[/bold] the same file, then "
    "[bold]lemur serve[/bold] what it made and [bold]lemur chat[/bold] with it.",
    epilog="Exit codes: 0 done, 1 failed, 2 bad recipe or plan, 3 gate refused, 4 storage, 5 damaged object, "
    "6 training, 7 no sandbox, 8 serving, 130 interrupted.",
)

data = typer.Typer(no_args_is_help=True, help="Look at what models read.")
app.add_typer(data, name="data")

Parameters = ParamSpec("Parameters")
RecipeArgument = Annotated[Path, typer.Argument(help="Recipe file.", metavar="RECIPE", show_default=False)]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override one field, as in `--set pretrain.tokens=100000`."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines instead.")]


def _reported(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Turns errors a user can mend into one message and the documented exit code."""

    @wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except LemurError as error:
            _fail(type(error).__name__, str(error), as_json=bool(kwargs.get("as_json")))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _fail(
                "Interrupted", "stopped; what was finished is kept, the same command goes on from there", as_json=False
            )
            raise typer.Exit(130) from None

    return run


def _fail(kind: str, message: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": kind, "message": message}))
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(f"{kind}: ", style="bold red") + Text(message), soft_wrap=True)


def _overrides(pairs: list[str]) -> dict[str, str]:
    from lemur.errors import RecipeError

    for pair in pairs:
        if "=" not in pair:
            raise RecipeError(f"--set {pair!r} has no `=`; write --set KEY=VALUE, as in --set pretrain.tokens=100000")
    return dict(pair.split("=", 1) for pair in pairs)


@app.command()
@_reported
def plan(recipe: RecipeArgument, overrides: Overrides = [], as_json: AsJson = False) -> None:  # noqa: B006
    """Show what a run will do before anything is spent: tokens, steps, memory, time and cost.

    Leaves with exit code 2 where something does not fit.
    """
    from rich.console import Console

    from lemur.plan import check_plan, make_plan, render_plan
    from lemur.recipe_file import load_recipe

    made = make_plan(load_recipe(recipe, _overrides(overrides)))
    if as_json:
        print(made.model_dump_json(indent=2))
    else:
        render_plan(made, Console())
    check_plan(made)


@app.command()
@_reported
def run(recipe: RecipeArgument, overrides: Overrides = [], as_json: AsJson = False) -> None:  # noqa: B006
    """Run a recipe on this machine: mix, pretrain, finetune, evaluate, gate, publish, serve.

    What an earlier run made and nothing has changed is not made again. Ctrl-C stops cleanly; the same command
    goes on from the last checkpoint.
    """
    from rich.console import Console

    from lemur.client import Client
    from lemur.display import RunDisplay
    from lemur.recipe_file import load_recipe

    console = Console(stderr=as_json)
    with RunDisplay(console) as display:
        result = Client().run(load_recipe(recipe, _overrides(overrides)), listener=display)
    from lemur.report import summary, summary_table

    target = _shown(result.record_uri)
    if as_json:
        print(json.dumps({**summary(result.receipts), "report": str(result.report), "run": target}, indent=2))
        return
    console.print()
    console.print(summary_table(result.receipts))
    console.print(f"\nReport  [bold]{_shown(str(result.report))}[/bold]", soft_wrap=True)
    console.print(f"Serve   [bold]{_program()} serve {target}[/bold]", soft_wrap=True)
    console.print(f"Chat    [bold]{_program()} chat http://127.0.0.1:8000/v1[/bold]", soft_wrap=True)


def _program() -> str:
    """Returns what starts this program from the folder the command was given in."""
    found = shutil.which("lemur")
    return "lemur" if found and Path(found).samefile(sys.argv[0]) else _shown(str(Path(sys.argv[0]).absolute()))


def _shown(location: str) -> str:
    """Returns a path as short as it can be typed from here; a URI that is not a file stays as it is."""
    path = Path(location.removeprefix("file://"))
    if "://" in location and not location.startswith("file://"):
        return location
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@app.command()
@_reported
def serve(
    release: Annotated[str, typer.Argument(help="A release, or a run's record; path or URI.", metavar="RELEASE")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    name: Annotated[str, typer.Option(help="The `model` that requests name.")] = "lemur",
    runtime: Annotated[str, typer.Option(help="Model server: `transformers` or `vllm`.")] = "transformers",
) -> None:
    """Serve a release at an OpenAI-compatible URL until Ctrl-C."""
    from lemur.serving.launch import serve_forever

    serve_forever(release, host=host, port=port, name=name, runtime=runtime)


@app.command()
@_reported
def chat(
    url: Annotated[str, typer.Argument(help="URL of the server.", metavar="URL")] = "http://127.0.0.1:8000/v1",
    message: Annotated[str | None, typer.Option("--message", "-m", help="Say this, print the reply and leave.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask; by default the one that the server lists.")] = None,
) -> None:
    """Talk to a served model; replies stream. Ctrl-C stops a reply, Ctrl-D leaves."""
    from rich.console import Console

    from lemur.serving.chat import chat as start_chat

    start_chat(url, model=model, system=system, message=message, console=Console())


@app.command()
@_reported
def report(
    run: Annotated[str, typer.Argument(help="Record of a run: path or URI ending in runs/NAME.", metavar="RUN")],
) -> None:
    """Write the HTML report of a run again, from its receipts."""
    from lemur.client import Client
    from lemur.errors import RecipeError

    storage, separator, name = run.rstrip("/").rpartition("/runs/")
    if not separator:
        raise RecipeError(f"{run!r} is not a run's record; give a path or URI that ends in runs/NAME")
    print(_shown(str(Client().report(storage, name))))


@data.command()
@_reported
def inspect(
    dataset: Annotated[str, typer.Argument(help="A tokens result, or a run's record; path or URI.", metavar="DATASET")],
    samples: Annotated[
        int | None, typer.Option(help="Show so many of the first sequences; 3 by default.", min=0, show_default=False)
    ] = None,
    places: Annotated[
        list[int], typer.Option("--place", help="Show the sequence at this place of the stream instead.", min=0)
    ] = [],  # noqa: B006
    documents: Annotated[
        list[str],
        typer.Option("--document", metavar="ORIGIN", help="Say what became of a document, as in `code/a.jsonl:17`."),
    ] = [],  # noqa: B006
    tokens: Annotated[
        int | None, typer.Option(help="Count shares and epochs over so many tokens of training.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a token mixture holds, what was left out, and its sequences as text.

    Every piece of a sequence is named by the file and line it came from.
    """
    from rich.console import Console

    from lemur.data.inspection.inspecting import inspect_dataset
    from lemur.data.inspection.view import render_inspection

    shown = places or range(samples if samples is not None else 0 if documents else 3)
    inspection = inspect_dataset(dataset, places=[*shown], documents=documents, tokens=tokens)
    if as_json:
        print(inspection.model_dump_json(indent=2))
    else:
        render_inspection(inspection, Console())


@app.command()
@_reported
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from lemur.recipe_file import schema_text

    print(schema_text(), end="")


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        from lemur import __version__

        print(__version__)
        raise typer.Exit


def main() -> Any:
    """Runs the command line."""
    return app()
