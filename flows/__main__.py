"""`python -m flows VERB key=value ...`, the same as `sightline`."""

from flows.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
