"""The version is said once, in pyproject.toml; changelog, README and the manifests for Kubernetes agree with it."""

import re

from pipeline.process.version import project_version
from stack.home.directory import ROOT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
SECTIONS = ("Added", "Changed", "Fixed", "Security")


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(project_version())} \(\d{{4}}-\d\d-\d\d\)", headings[1])


def test_the_changelog_has_no_sections_but_those_that_a_reader_knows() -> None:
    assert set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)) <= set(SECTIONS)


def test_the_images_of_kubernetes_have_this_version() -> None:
    texts = [it.read_text() for it in (ROOT / "deploy" / "kubernetes").rglob("*") if it.suffix in (".md", ".yaml")]
    said = {it for text in texts for it in re.findall(r"(?:headrace:|newTag: )(\d[\w.]*)", text)}
    assert said == {project_version()}


def test_the_readme_says_this_version() -> None:
    assert f"This is {project_version()};" in (ROOT / "README.md").read_text()
