"""`python -m ironclip` and the command `ironclip`. A scheduler's signal is noted from here on, while the rest is imported."""

from ironclip.core.signals import heard_from_here


def main() -> None:
    with heard_from_here():
        from ironclip.cli import main as command_line

        command_line()


if __name__ == "__main__":
    main()
