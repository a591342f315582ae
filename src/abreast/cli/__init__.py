"""The command line, `abreast --help`.

`app.py` holds the commands; each is thin, and imports the module that does its work when it runs, so that help and the
catalog appear at once.
"""

INTERRUPTED = 130  # what a shell gives for a process that Ctrl-C ended


def main() -> None:
    """The entry point of the script `abreast`."""
    from abreast.cli.app import app

    app()


__all__ = ["INTERRUPTED", "main"]
