"""`python -m ironclip.pretraining --out FOLDER`."""

from ironclip.pretraining.train import main

if __name__ == "__main__":
    main()
