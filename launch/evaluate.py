"""Scores a trained run: python launch/evaluate.py --gin_file=NAME.gin; the same as `mixlm evaluate`."""

from mixlm.cli.evaluate import main
from mixlm.gin_config.flags import run_or_explain_error

if __name__ == "__main__":
    run_or_explain_error(main)
