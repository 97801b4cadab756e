"""Pins the images of docker-compose.yml to digests, in the file `.env`, which Docker Compose reads by itself.

python -m deploy.pin_images            pull each image by its tag, and write TAG@sha256:... for it into .env
python -m deploy.pin_images --check    change nothing; exit 1 and name each image that has no digest

A tag may mean another image tomorrow, a digest never does. None is in this repository: which one is right is for the
registry that you pull from to say, and for you to renew, when an image gets its fixes.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = (ROOT / "docker-compose.yml", ROOT / "deploy" / "cluster" / "docker-compose.yml")
# Built here, from an image that is pinned.
OURS = {"HEADRACE_IMAGE"}
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


class CannotPin(Exception):
    """Says why, and of which image."""


def defaults(texts: list[str]) -> dict[str, str]:
    """Variable → image by tag, of all images that Compose files name."""
    found = dict(pair for text in texts for pair in re.findall(r"\$\{(\w+_IMAGE):-([^}]+)\}", text))
    return {name: image for name, image in found.items() if name not in OURS}


def references(images: Mapping[str, str], env_file: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What Compose would use: the shell's variable, else the one in `.env`, else the tag."""
    in_file = dict(re.findall(r"^(\w+)=(.*)$", env_file, re.MULTILINE))
    return {name: environment.get(name) or in_file.get(name) or image for name, image in images.items()}


def without_digest(references: Mapping[str, str]) -> list[str]:
    return [f"{name}={image}" for name, image in references.items() if not _DIGEST.search(image)]


def with_lines(env_file: str, pinned: Mapping[str, str]) -> str:
    """`.env` with these variables in the place of what it said of them; its other lines stay."""
    kept = [line for line in env_file.splitlines() if line.partition("=")[0] not in pinned]
    return "\n".join([*kept, *(f"{name}={image}" for name, image in pinned.items())]) + "\n"


def digest_of(image: str, repo_digests: list[str]) -> str:
    """`image` with its digest, of those that the engine knows it by. Raises CannotPin."""
    repository = re.sub(r":[^/:]+$", "", image)
    for known in repo_digests:
        name, _, digest = known.partition("@")
        if name.removeprefix("docker.io/").removeprefix("library/") == repository.removeprefix("docker.io/"):
            return f"{image}@{digest}"
    raise CannotPin(f"{image} has no digest: it was built here, or comes from another registry ({repo_digests})")


# ── I/O below


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotPin(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def pin(image: str, docker: Callable[..., str] = _docker) -> str:
    """Pull what the tag means now, and return it with its digest. Raises CannotPin."""
    tag = image.partition("@")[0]
    docker("pull", "--quiet", tag)
    return digest_of(tag, json.loads(docker("image", "inspect", "--format", "{{json .RepoDigests}}", tag)))


def main(arguments: list[str], env_file: Path = ROOT / ".env") -> int:
    """The exit code: 0, 1 when an image has no digest or cannot be pulled, 2 for wrong arguments."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    before = env_file.read_text() if env_file.exists() else ""
    used = references(defaults([file.read_text() for file in FILES]), before, os.environ)
    if arguments:
        loose = without_digest(used)
        print("\n".join(loose) or "every image has a digest")
        return 1 if loose else 0
    try:
        pinned = {name: pin(image) for name, image in used.items()}
    except (CannotPin, OSError) as error:
        print(f"pin_images: {error}", file=sys.stderr)
        return 1
    env_file.write_text(with_lines(before, pinned))
    print(*(f"{name}={image}" for name, image in pinned.items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
