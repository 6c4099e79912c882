"""The command line: one file a verb; results on stdout, everything else on stderr."""

import sys
from typing import Annotated

import typer

from llava_mini.cli import (
    analyze,
    ask,
    batch,
    chat,
    convert,
    data,
    demo,
    evaluate,
    export,
    merge,
    profile,
    serve,
    train,
    ui,
)
from llava_mini.errors import LlavaMiniError

app = typer.Typer(
    name="llava-mini",
    help="Ask about pictures and videos; each picture or frame costs the language model one token.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("ask")(ask.ask)
app.command("chat")(chat.chat)
app.command("demo")(demo.demo)
app.command("convert")(convert.convert)
app.command("train")(train.train)
app.command("export")(export.export)
app.command("merge")(merge.merge)
app.command("evaluate")(evaluate.evaluate)
app.command("serve")(serve.serve)
app.command("batch")(batch.batch)
app.command("ui")(ui.ui)
app.command("analyze")(analyze.analyze)
app.add_typer(data.app, name="data")
app.add_typer(profile.app, name="profile")


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("llava-mini"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; a user's mistake is one line on stderr and exit code 1."""
    try:
        app()
    except LlavaMiniError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(0)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
