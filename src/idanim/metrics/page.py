"""Pages that open offline: templates, styles, scripts and pictures in one HTML file."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from idanim.files import write_text

MIB = 1024 * 1024


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template of `metrics/templates` and write it; text in it is escaped.

    Args:
        path: of the HTML file.
        template: file name.
        values: what the template refers to; one that is missing is an error.
    """
    loader = PackageLoader("idanim.metrics", "templates")
    # The loader's files are ours, what is put into them is anybody's: everything is escaped.
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "ensure_ascii": False, "separators": (",", ":")}
    write_text(path, environment.get_template(template).render(**values))


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as an address that holds them.

    Args:
        content: of a file.
        kind: media type, for instance "video/mp4".
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
