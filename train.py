"""Train a face adapter: python train.py experiment=random_ref data.shards=<folder>."""

from idanim.config import Run, program


@program("train", aliases={"caption": "data.caption", "memory": "blocks"})
def main(run: Run) -> None:
    """Train an adapter."""
    # Torch and Lightning load only once the command line is right.
    from idanim.training_run import train

    train(run)


if __name__ == "__main__":
    main()
