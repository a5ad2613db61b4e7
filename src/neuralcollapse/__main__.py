"""`python -m neuralcollapse`, where the command is not on the path."""

from neuralcollapse.cli import main

if __name__ == "__main__":
    main()
