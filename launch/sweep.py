"""Trains a study: python launch/sweep.py --gin_file=studies/NAME.gin; the same as `mixlm sweep`."""

from mixlm.cli.sweep import main
from mixlm.gin_config.flags import run_or_explain_error

if __name__ == "__main__":
    run_or_explain_error(main)
