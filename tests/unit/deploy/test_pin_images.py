"""Images by digest: one file says which, Compose reads it, and a check names what is loose."""

from pathlib import Path
from typing import Any

import pytest

from deploy import pin_images
from deploy.pin_images import CannotPin, defaults, digest_of, pin, references, with_lines, without_digest
from tests.unit.deploy.test_compose_file import services

DIGEST = f"sha256:{'0a' * 32}"


def test_every_image_that_is_not_built_here_can_be_pinned() -> None:
    images = defaults([file.read_text() for file in pin_images.FILES])
    found = services("docker-compose.yml")
    named = {it["image"] for it in found.values() if "build" not in it}
    bases = {it["build"]["args"]["PYTHON_IMAGE"] for it in found.values() if "build" in it}
    assert set(images.values()) == named | bases


def test_the_shell_comes_before_the_file_and_the_file_before_the_tag() -> None:
    images = {"A_IMAGE": "a:1", "B_IMAGE": "b:1", "C_IMAGE": "c:1"}
    used = references(images, f"A_IMAGE=a:1@{DIGEST}\nB_IMAGE=b:2\nOTHER=x\n", {"B_IMAGE": f"b:3@{DIGEST}"})
    assert used == {"A_IMAGE": f"a:1@{DIGEST}", "B_IMAGE": f"b:3@{DIGEST}", "C_IMAGE": "c:1"}
    assert without_digest(used) == ["C_IMAGE=c:1"]
    assert without_digest({"A_IMAGE": "a@sha256:0a"}) == ["A_IMAGE=a@sha256:0a"]


def test_other_lines_of_the_file_stay() -> None:
    assert with_lines("PORT=1\nA_IMAGE=old\n", {"A_IMAGE": "new"}) == "PORT=1\nA_IMAGE=new\n"


def test_the_digest_is_that_of_the_repository_that_is_named() -> None:
    known = [f"mirror.example/postgres@sha256:{'1b' * 32}", f"postgres@{DIGEST}"]
    assert digest_of("postgres:17", known) == f"postgres:17@{DIGEST}"
    assert digest_of("docker.io/postgres:17", known) == f"docker.io/postgres:17@{DIGEST}"
    assert digest_of("mirror.example/postgres:17", known).endswith("1b")
    with pytest.raises(CannotPin, match="built here"):
        digest_of("postgres:17", [])


def test_a_pinned_image_is_renewed_by_its_tag() -> None:
    asked: list[tuple[str, ...]] = []

    def docker(*arguments: str) -> str:
        asked.append(arguments)
        return f'["redis@{DIGEST}"]'

    assert pin(f"redis:8@sha256:{'1b' * 32}", docker) == f"redis:8@{DIGEST}"
    assert asked[0] == ("pull", "--quiet", "redis:8")


def test_what_is_written_passes_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pinned(image: str, *_: Any) -> str:
        return f"{image}@{DIGEST}"

    monkeypatch.setattr(pin_images, "pin", pinned)
    for name in defaults([file.read_text() for file in pin_images.FILES]):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / ".env"
    assert pin_images.main(["--check"], file) == 1
    assert "POSTGRES_IMAGE=postgres:17\n" in capsys.readouterr().out
    assert pin_images.main([], file) == 0
    assert pin_images.main(["--check"], file) == 0
    assert pin_images.main(["--wrong"], file) == 2
