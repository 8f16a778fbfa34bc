"""`python -m turbobench` is the command line tool."""

from turbobench.cli import main

if __name__ == "__main__":
    main()
