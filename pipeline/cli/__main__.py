"""The console script, and `python -m pipeline.cli`: memory is seen to before anything is imported that takes it."""

from pipeline import heap


def entry() -> None:
    """Run the command line of this process."""
    heap.give_back()
    from pipeline.cli import main, process

    process.end(main.app)


if __name__ == "__main__":
    entry()
