"""The command line: qsample train, study, evaluate, sample, samplers, recipes, sapi, --version."""

from qsample.cli.command import main as main
