import click


@click.command()
@click.argument("word")
def echo(word: str) -> None:
    """Print a word."""
    click.echo(word)
