"""``python -m torchgraft`` is the command ``torchgraft``."""

from torchgraft.cli import main

if __name__ == "__main__":
    main()
