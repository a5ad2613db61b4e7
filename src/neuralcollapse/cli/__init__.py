"""The command line: one file a verb."""

from neuralcollapse.cli.main import main as main
