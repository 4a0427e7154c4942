"""Make videos of one person: `python -m idanim.generate faces=insightface ckpt=<adapter> reference=<photo> prompt="…"`.

For each prompt there are `<person>/<prompt>_s<seed>.mp4`, the same as `.gif`, and a `.json` of everything it was
made from (`idanim.metrics.videos`), so that `evaluate.py videos=<output>` can score them.
"""

from __future__ import annotations

from idanim.config import Run, program


# Hydra gives no key the name of a config group, and `reference` is the group of training's reference strategies.
@program("generate", aliases={"reference": "references"})
def main(run: Run) -> None:
    """Generate, and say where the videos are."""
    # Torch and the models load only once the command line is right.
    from idanim.person_videos import generate_videos

    print("\n".join(f"video     {path}" for path in generate_videos(run)))


if __name__ == "__main__":
    main()
