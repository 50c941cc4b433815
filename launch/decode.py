"""Continues prompts with a trained run: python launch/decode.py --gin_file=NAME.gin; the same as `mixlm decode`."""

from mixlm.cli.decode import main
from mixlm.gin_config.flags import run_or_explain_error

if __name__ == "__main__":
    run_or_explain_error(main)
