"""Right: what an accelerator computes, against what it should: python benchmarks/accelerator_parts/right.py --out=FILE.

Cases, those that say most first: attention by every path that "auto" can choose, forward and gradients
(`right_attention`); a resume to the bit (`right_resume`); the goldens (`right_goldens`); every objective's loss and
gradient against the CPU's (`right_losses`). Tolerances stand in those files. Each case says `right`, its figures, and
what ran; see `record` for the file and for `--only`.
"""

from concurrent.futures import ThreadPoolExecutor

from record import Record, main

THREADS = 8  # Ours: programs that are compiled at once.


def cases(record: Record) -> None:
    """Runs the cases of each group until the budget is spent."""
    import right_attention
    import right_goldens
    import right_losses
    import right_resume

    pool = ThreadPoolExecutor(THREADS)
    for part in (right_attention, right_resume, right_goldens, right_losses):
        for _ in part.cases(record, pool):
            if record.left <= 0:
                return


if __name__ == "__main__":
    main(__doc__, cases)
