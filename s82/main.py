"""`s82`: find the word, run it, turn errors into one clear line and exit codes.

Words are imported only when used, so that `s82 build` needs no torch and `s82 model` no Prefect.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
from types import FrameType

import click

WORDS = {
    "demo": "The whole way once: simulated archive → dataset → trained model → report.",
    "demo-real": "Build a dataset from real SDSS files on this disk and report on it.",
    "simulate": "Write a simulated archive in the formats and paths of the real ones.",
    "serve-archive": "Serve an archive tree over HTTP on 127.0.0.1.",
    "catalog": "Count and select the objects of a list.",
    "doctor": "What this machine and the servers of a survey offer, and what to do where they do not.",
    "plan": "Objects, exposures, frames, GB, disk and hours of a build, before anything is fetched.",
    "build": "Build and publish a dataset (flow build-dataset).",
    "refresh": "Publish the next version of a dataset from what is new or changed (flow refresh-dataset).",
    "cache": "Look at downloads: what is here, what archives lack, what changed.",
    "dataset": "List, compare, verify and clear away published datasets.",
    "train": "Train on photometrically typed objects (flow train-model).",
    "fine-tune": "Fine-tune on spectroscopically confirmed objects (flow fine-tune-model).",
    "search": "Search hyper-parameters on photometrically typed objects, resumable.",
    "evaluate": "Evaluate a fine-tuned run on its test folds (flow evaluate-model).",
    "classify": "Say which class each object of a file, folder or dataset is, by trained models.",
    "model": "Describe the network; export a trained one, print its card.",
    "report": "Write the HTML page of a dataset, with a run if given.",
    "server": "Run a Prefect server with workers here, or set one up.",
    "status": "Server, workers, last runs, datasets and scores; exit code 1 if something needs a person.",
    "upkeep": "Clear away old versions, runs, downloads, logs and reports (flow upkeep).",
}


class LazyGroup(click.Group):
    """A group whose words are modules of this package."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(WORDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in WORDS:
            return None
        try:
            module = importlib.import_module(f"s82.words.{cmd_name.replace('-', '_')}")
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"`s82 {cmd_name}` needs the package {error.name}: pip install 'stripe82-convention[all]'"
            ) from error
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Words"):
            formatter.write_dl(list(WORDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stripe82-convention", prog_name="s82")
def cli() -> None:
    """From the SDSS Stripe 82 archive to a trained ConvEntion."""


def entry() -> None:
    """The console script: `main`, with Ctrl-C and SIGTERM meaning stop, now."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    main()


def main(arguments: list[str] | None = None) -> None:
    """Run one word: exit code 0 only when what was asked holds; 1 with one line on stderr when it cannot be had."""
    try:
        cli.main(args=arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except Exception as error:
        if str(error).startswith("Failed to reach API at "):  # Prefect's RuntimeError, which has no class of its own
            server = os.environ.get("PREFECT_API_URL", "the address in its settings")
            click.echo(f"error: no Prefect server answers at {server}: start it, or unset PREFECT_API_URL", err=True)
            sys.exit(1)
        if not _is_ours(error):
            raise
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def _stop(number: int, _frame: FrameType | None) -> None:
    """Leave at once, children first.

    Whatever lies on disk is whole at any moment, and the next run continues from it. An orderly exit would
    wait for running cells and for an embedded Prefect server that the same Ctrl-C has ended already.
    """
    click.echo("\nstopped; finished work is kept, the same command continues it", err=True)
    for child in multiprocessing.active_children():
        child.kill()
    prefect = sys.modules.get("prefect.server.api.server")
    for server in list(getattr(getattr(prefect, "SubprocessASGIServer", None), "_instances", {}).values()):
        if process := getattr(server, "server_process", None):
            process.terminate()
    os._exit(128 + number)


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised on purpose; importing nothing that the word did not need."""
    errors = sys.modules.get("pipeline.errors")
    return errors is not None and isinstance(error, errors.PipelineError)
