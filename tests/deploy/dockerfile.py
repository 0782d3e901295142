"""Reads what the Dockerfile puts into an image, as far as a rehearsal with this environment's packages needs it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

# What the base images bring along.
_BASES = {
    "apache/airflow": {"AIRFLOW_HOME": "/opt/airflow", "HOME": "/home/airflow"},
    "python": {"HOME": "/var/lib/sandbox"},
}


@dataclass
class Image:
    """One stage of the Dockerfile: what is copied where, and the environment."""

    base: str
    environment: dict[str, str]
    workdir: str = "/"
    copies: list[tuple[str, str]] = field(default_factory=list)


def read_images(path: Path) -> dict[str, Image]:
    """Return the stages of a Dockerfile by name."""
    images: dict[str, Image] = {}
    image = None
    for line in path.read_text().splitlines():
        keyword, *words = shlex.split(line, comments=True) or [""]
        if keyword == "FROM":
            base = words[0].partition(":")[0]
            image = images[words[2]] = Image(base, dict(_BASES[base]))
        elif image is None or keyword not in ("ENV", "WORKDIR", "COPY"):
            continue
        elif keyword == "ENV":
            image.environment |= dict(word.split("=", 1) for word in words)
        elif keyword == "WORKDIR":
            image.workdir = words[0]
        else:
            *sources, target = words
            for source in sources:
                # A target with a slash at its end is a folder that keeps the files' names.
                name = PurePosixPath(target) / Path(source).name if target.endswith("/") else PurePosixPath(target)
                image.copies.append((source, str(PurePosixPath(image.workdir) / name)))
    return images
