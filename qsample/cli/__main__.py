"""`python -m qsample.cli` is the `qsample` command."""

from qsample.cli import main

if __name__ == "__main__":
    main()
