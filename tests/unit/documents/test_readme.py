"""README is short, quotes a real answer, and shows the path of an order as the concepts page does."""

import html
import json
import re
from xml.etree import ElementTree

import msgspec

from ingest_api.documents.documents import openapi
from ingest_api.documents.order_fields import ORDERS
from stack.home.directory import ROOT
from stack.operate.demo.picture import COMMAND

README = (ROOT / "README.md").read_text()
CONCEPTS = (ROOT / "docs" / "concepts.md").read_text()
API = (ROOT / "docs" / "api" / "orders.md").read_text()
MAX_LINES = 130
MAX_BYTES = 6_144


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= MAX_LINES
    assert len(README.encode()) <= MAX_BYTES


def test_it_shows_the_path_that_the_concepts_page_shows() -> None:
    _, _, path = CONCEPTS.partition("<!-- path -->\n\n")
    assert path.partition("\n\n<!-- /path -->")[0] + "\n" in README


def test_it_leads_to_the_documentation() -> None:
    assert "](docs/README.md)" in README


def test_the_picture_of_the_demo_says_what_its_text_says_and_loads_nothing() -> None:
    ((said, path),) = re.findall(r"!\[(20,000 orders.*?)\]\((.*?)\)", README)
    picture = (ROOT / path).read_text()
    ElementTree.fromstring(picture)
    text = " ".join(html.unescape("".join(re.findall("<text [^>]*>([^<]*)</text>", picture))).split())
    assert said in text
    assert COMMAND in text
    drawn = re.sub("<!--.*?-->", "", picture).replace("http://www.w3.org/2000/svg", "")
    assert re.findall("https?://|@import|<script|<image", drawn) == []


def test_the_answers_to_an_order_are_those_of_the_openapi_document() -> None:
    answers = msgspec.json.decode(msgspec.json.encode(openapi()))["paths"][ORDERS]["post"]["responses"]
    examples = [it["value"] for it in answers["202"]["content"]["application/json"]["examples"].values()]
    for document, shown in ((README, examples[:1]), (API, examples)):
        quoted = [json.loads(it) for it in re.findall(r"^```json\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)]
        assert quoted == shown
        assert [list(it) for it in quoted] == [list(it) for it in shown]


def test_it_says_how_many_goals_were_missed() -> None:
    performance = (ROOT / "docs" / "performance.md").read_text()
    _, _, after = performance.partition("<!-- bench:goals ")
    judged = re.findall(r"\| (met|\*\*missed\*\*) \|$", after.partition("<!-- /bench -->")[0], re.MULTILINE)
    missed = judged.count("**missed**")
    assert f"({missed} of {len(judged)} goals were missed)" in " ".join(README.split())
