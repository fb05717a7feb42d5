"""`s82 model`"""

from __future__ import annotations

import click

from model.describe import describe
from s82.output import as_json, show


@click.group("model")
def command() -> None:
    """Look at the network."""


@command.command("describe")
@click.option("--preset", default="paper", show_default=True, help="paper or small.")
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
