"""The console script, and `python -m pipeline.cli`: configure memory before any import that allocates it."""

from pipeline import memory


def entry() -> None:
    """Run the command line of this process."""
    memory.configure_allocators()
    memory.hold_gc()
    from pipeline.cli import process
    from pipeline.cli.flags import app

    process.end(app.app)


if __name__ == "__main__":
    entry()
