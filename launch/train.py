"""Trains a recipe: python launch/train.py --gin_file=NAME.gin; the same as `mixlm train`."""

from mixlm.cli.train import main
from mixlm.gin_config.flags import run_or_explain_error

if __name__ == "__main__":
    run_or_explain_error(main)
