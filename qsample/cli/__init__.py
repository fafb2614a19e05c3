"""The command line: qsample train, evaluate, sample, samplers, recipes, sapi and --version."""

from qsample.cli.command import main as main
