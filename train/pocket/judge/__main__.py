"""The command: `python -m train.pocket.judge`."""

from train.pocket.judge.model import main

if __name__ == "__main__":
    main()
