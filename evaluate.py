"""Generate a fixed grid of people × prompts × seeds with a trained adapter and score it.

python evaluate.py ckpt=<file> [data.shards=<folder>] [output=<folder>]
"""

from idanim.config import Run, program


@program("evaluate")
def main(run: Run) -> None:
    """Evaluate a checkpoint, or score a folder of videos."""
    # Torch and the models load only once the command line is right.
    from idanim.evaluation import evaluate

    evaluate(run)


if __name__ == "__main__":
    main()
