"""Make videos of people: `python -m idanim.generate faces=insightface ckpt=<adapter> reference=<photo> prompt="…"`.

For each person, prompt and seed there are `<person>/<prompt>_s<seed>.mp4` and a `.json` of everything it was made
from, so that `recipe=<json>` makes it again and `evaluate.py videos=<output>` can score it.
"""

from __future__ import annotations

from idanim.config import Run, program


# The aliases of `idanim.generator`, which is too heavy to import for a mistyped command line.
@program("generate", aliases={"reference": "references", "weights=[": "mix"})
def main(run: Run) -> None:
    """Generate, and say where the videos are."""
    # Torch and the models load only once the command line is right.
    from idanim.person_videos import generate_videos

    print("\n".join(f"video     {path}" for path in generate_videos(run)))


if __name__ == "__main__":
    main()
