"""Generate a fixed grid of people × prompts × seeds with a trained adapter and score it.

python evaluate.py ckpt=<file> [data.shards=<folder>] [output=<folder>]
"""

from idanim.config import Run, program
from idanim.evaluation import evaluate


@program("evaluate")
def main(run: Run) -> None:
    """Evaluate a checkpoint, or score a folder of videos."""
    evaluate(run)


if __name__ == "__main__":
    main()
