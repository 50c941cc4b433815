"""Trains a recipe with T5X's own trainer: python launch/t5x_steps.py --gin_file=NAME.gin --gin.TRAIN_STEPS=10."""

from mixlm.cli.t5x_steps import main
from mixlm.gin_config.flags import run_or_explain_error

if __name__ == "__main__":
    run_or_explain_error(main)
