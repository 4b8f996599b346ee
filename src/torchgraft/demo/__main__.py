"""``python -m torchgraft.demo``: the demo without the rest of the command line."""

import click
from rich.console import Console

from torchgraft.demo import run


@click.command()
@click.option("--output", default="demo-output", show_default=True, help="Folder for what the demo writes.")
@click.option("--seeds", default=5, show_default=True, help="Repetitions of every fine-tuning.")
@click.option("--epochs", default=3, show_default=True, help="Epochs of every fine-tuning.")
@click.option("--seed", default=0, show_default=True, help="Seed of the split, the source and the first repetition.")
def main(output: str, seeds: int, epochs: int, seed: int) -> None:
    """Warm-start a different network from a trained one, three ways, on handwritten digits."""
    run(output, seeds=seeds, epochs=epochs, seed=seed, console=Console())


if __name__ == "__main__":
    main()
