"""The command `segkit`: sub-commands load on use, errors are one line, start-up imports nothing heavy."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import signal
import sys
from typing import Any

import click

from segkit import __version__
from segkit.errors import SegkitError, UnknownName

_BUILTIN = {
    "models": ("segkit.cli.models:models", "List the networks, or show one."),
    "plugins": ("segkit.cli.plugins:plugins", "List, show and diagnose plugins."),
    "data": ("segkit.cli.data:data", "Make and look at data sets."),
    "train": ("segkit.cli.train:train", "Train a network on a data set."),
    "evaluate": ("segkit.cli.evaluate:evaluate", "Score a run on whole volumes."),
}
"""Core's own sub-commands: where they are, and the line that help shows."""


class _Commands(click.Group):
    """Core's commands and those that plugins bring; each is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        plugged = [entry.name for entry, status in _registry(ctx).list("command") if status == "ok"]
        return [*_BUILTIN, *(name for name in plugged if name not in _BUILTIN)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from segkit.loader import Failure

        if cmd_name in _BUILTIN:
            module, _, attribute = _BUILTIN[cmd_name][0].partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        registry = _registry(ctx)
        try:
            entry = registry.resolve("command", cmd_name)
        except UnknownName:
            raise UnknownName("command", cmd_name, self.list_commands(ctx)) from None
        plugged = registry.build("command", cmd_name)
        if not isinstance(plugged, click.Command):
            Failure(entry, "factory", f"expected a click command, got a {type(plugged).__name__}").raise_for()
        return plugged

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help's list; only segkit's own plugin modules are asked for their line, and they are light."""
        from segkit.loader import Failure

        registry = _registry(ctx)
        entries = [entry for entry, status in registry.list("command") if status == "ok" and entry.name not in _BUILTIN]
        rows = [(name, line) for name, (_, line) in _BUILTIN.items()]
        cards = [(entry.name, registry.try_card(entry)) for entry in entries if entry.builtin]
        rows += [(name, card.error if isinstance(card, Failure) else card.summary) for name, card in cards]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        others = [(entry.name, f"from {entry.distribution} {entry.version}") for entry in entries if not entry.builtin]
        if others:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(others)


def _registry(ctx: click.Context) -> Any:
    """The registry of this call, made when it is first needed, after the switches have been read."""
    if ctx.obj is None:
        from segkit.registry import Registry, Switches

        switches = Switches.from_environment(
            builtin_only=bool(ctx.params.get("no_plugins")), disabled=ctx.params.get("no_plugin") or ()
        )
        ctx.obj = Registry.from_environment(switches)
    return ctx.obj


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: segkit data make phantom data --preset iseg && segkit train --model unet3d --data data --out run",
)
@click.version_option(__version__, message="segkit %(version)s")
@click.option("--no-plugins", is_flag=True, is_eager=True, help="Use only what segkit itself brings.")
@click.option(
    "--no-plugin", multiple=True, is_eager=True, metavar="NAME", help="Never load this plugin or distribution."
)
@click.option("--debug", is_flag=True, is_eager=True, help="Show tracebacks.")
@click.pass_context
def cli(ctx: click.Context, no_plugins: bool, no_plugin: tuple[str, ...], debug: bool) -> None:
    """3D segmentation of brain MRI: train a network, prove its export, run it on whole volumes."""
    _registry(ctx)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 failed, 2 a bad request or input, 3 not proven, 130 Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # Else pydantic looks for plugins of its own in all that is installed, and loads them; segkit has its own rules.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    signal.signal(signal.SIGTERM, _interrupt)
    atexit.register(gc.freeze)  # else what torch has left is searched for cycles at the end, for more than a second
    try:
        code = cli.main(arguments, prog_name="segkit", standalone_mode=False)
    except SegkitError as error:
        if debug:
            raise
        _complain(str(error))
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        if debug:
            raise
        _complain("interrupted")
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except Exception as error:
        if debug:
            raise
        _complain(
            f"{type(error).__name__}: {error}; a defect of segkit or of a plugin, see it with: segkit --debug ...; "
            "hold a plugin to its contract with: segkit plugins check NAME"
        )
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str) -> None:
    click.echo(f"{click.style('error:', fg='red')} {' '.join(text.split())}", err=True)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
