"""`s82 model`"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from model.describe import describe
from s82.output import as_json, show

FORMATS = ("onnx", "pt2")


@click.group("model")
def command() -> None:
    """Look at the network, and give a trained one away."""


@command.command("describe")
@click.option("--preset", default="paper", show_default=True, help="paper, light or small.")
@as_json
def describe_model(preset: str, as_json: bool) -> None:
    """Print the layers of a preset, their shapes and parameters."""
    description = describe(preset)
    if as_json:
        show(description.model_dump(mode="json"), as_json=True)
        return
    click.echo(f"{'layer':<28} {'in':<20} {'out':<20} parameters")
    for layer in description.layers:
        shapes = [" × ".join(map(str, shape)) for shape in (layer.shape_in, layer.shape_out)]
        click.echo(f"{layer.name:<28} {shapes[0]:<20} {shapes[1]:<20} {layer.parameters:>10,}")
    click.echo(f"{'total':<70} {description.parameters:>10,}")


@command.command("export")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: as OUT is called.")
@click.option("--fold", type=click.IntRange(0), help="Of a run, the models of this fold alone.")
def export_model(model: Path, out: Path, form: str | None, fold: int | None) -> None:
    """Write MODEL (a run, or the folder of one model) as one graph, from nanomaggies to probabilities.

    OUT.onnx for ONNX runtimes, OUT.pt2 for torch.export.load. Classes, bands, inputs and constants are in its metadata.
    """
    from model.classify import load_classifier
    from model.exchange import Format, export_classifier, inputs_of

    wanted = form or out.suffix.removeprefix(".")
    found: Format | None = next((known for known in get_args(Format) if known == wanted), None)
    if found is None:
        raise click.UsageError(f"{out} ends with neither .onnx nor .pt2: say --format")
    classifier = load_classifier(model, fold)
    export_classifier(classifier, out, found)
    megabytes = out.stat().st_size / 1e6
    click.echo(
        f"{out}: {classifier.n_models} networks, {megabytes:.1f} MB; inputs {', '.join(inputs_of(classifier.model))}"
    )


@command.command("card")
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
def print_card(run: Path) -> None:
    """Print the card of an evaluated RUN, which is also its README.md."""
    from model.evaluation.card import read_card

    click.echo(read_card(run), nl=False)
