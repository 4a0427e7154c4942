"""Verification accuracy of a face engine: `python -m idanim.faces verify <folder> faces=insightface faces.pack=…`.

The folder holds photos named `<person>__<anything>.jpg`. A photo in which several faces are found is left out, because
nobody knows which of them is meant, as is one without a face; both are listed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from idanim.config import Run, build, program
from idanim.faces.engine import FaceEngine
from idanim.faces.verification import report_lines, verify
from idanim.metrics.people import PICTURE_ENDINGS, person_of
from idanim.pictures import decode_picture
from idanim.types import IdanimError


@program("verify", positional="input")
def verify_folder(run: Run) -> None:
    """Verify the people of a folder and print what was found."""
    folder = Path(run.config["input"]).expanduser()
    if not folder.is_dir():
        raise IdanimError(f"input={str(folder)!r}: there is no such folder")
    photos = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURE_ENDINGS]
    engine: FaceEngine = build(run.config["faces"])
    vectors, people = [], []
    odd: dict[str, list[str]] = {"no face": [], "several faces": []}
    for path in photos:
        rgb = decode_picture(path.read_bytes(), str(path))
        faces = engine.detect(rgb)
        if len(faces) == 1:
            vectors.append(engine.embed(rgb, faces[0]))
            people.append(person_of(path))
        else:
            odd["several faces" if faces else "no face"].append(path.name)
    try:
        result = verify(vectors, people)
    except ValueError as error:
        left_out = "; ".join(f"{reason}: {', '.join(names)}" for reason, names in odd.items() if names)
        raise IdanimError(f"{folder}: {error}" + (f" (left out: {left_out})" if left_out else "")) from error
    print(f"engine     {engine.name}")
    print(f"pictures   {len(vectors)} of {len(set(people))} people")
    print("\n".join(report_lines(result, odd)))


def main() -> None:
    """Run the command that the first argument names."""
    if sys.argv[1:2] != ["verify"]:
        sys.exit("usage: python -m idanim.faces verify <folder> [faces=insightface|opencv faces.pack=… faces.root=…]")
    del sys.argv[1]
    verify_folder()


if __name__ == "__main__":
    main()
