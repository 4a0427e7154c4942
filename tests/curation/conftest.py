import sys
from pathlib import Path

import pytest
from square_faces import SquareFaces

from idanim.config import CONF_DIR
from idanim.curate import main, make_curator


@pytest.fixture(scope="session")
def curate():
    """Run the real program on small clips with square faces: curate(input, output, "key=value", …)."""

    def run(source, output, *overrides):
        arguments = [
            f"input={source}",
            f"output={output}",
            "faces._target_=square_faces.SquareFaces",
            "filter.min_face_px=12",
            "clip.size=32",
            *overrides,
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["curate", *arguments])
            main()
        return Path(output)

    return run


@pytest.fixture
def curator():
    """A curator with the program's own settings, but square faces and small clips."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "curate.yaml"))
    config["faces"] = {"_target_": f"{SquareFaces.__module__}.SquareFaces"}
    config["clip"]["size"] = 32
    config["filter"]["min_face_px"] = 12
    return make_curator(config)
