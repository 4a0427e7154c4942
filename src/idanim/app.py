"""A web page for generation: `python -m idanim.app`, then open the address that it prints."""

from __future__ import annotations

import os
from importlib.util import find_spec

from idanim.config import Run, program
from idanim.types import IdanimError


# The aliases of `idanim.generator`, which is too heavy to import for a mistyped command line.
@program("app", aliases={"reference": "references", "weights=[": "mix"})
def main(run: Run) -> None:
    """Serve the page until ^C."""
    if find_spec("gradio") is None:
        raise IdanimError("the web page needs Gradio: pip install 'idanim[app]'")
    # Gradio reads this where it is imported; what is told to `launch` alone would come too late.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Torch and the models load only once the command line is right.
    from idanim.web.server import serve

    serve(run)


if __name__ == "__main__":
    main()
