"""`python -m ironclip`: the command line."""

from ironclip.cli import main

if __name__ == "__main__":
    main()
