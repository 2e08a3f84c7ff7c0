"""The front page: cards with verdicts and numbers of the records, diagrams that say what they show."""

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image

from datafree import DataFreeError
from datafree.book import diagrams, dreams, front, handouts, pages, parameters
from datafree.evidence.record import read_all


def test_every_chapter_of_the_papers_is_on_a_card():
    on_cards = [name for card in front.front().papers.values() for name in card.chapters]
    of_no_paper = {"00_start", "13_shootout", "14_beyond", "15_your_network"}
    assert sorted(on_cards) == sorted(set(parameters.NOTEBOOKS) - of_no_paper)


def test_every_number_of_a_card_is_on_record():
    found = read_all()
    for card in front.front().papers.values():
        values = [front._value(text, found) for text in (card.whole, card.broken, card.repaired)]
        assert values[0] > values[2] > values[1] > 0
    with pytest.raises(DataFreeError, match="which no record has"):
        front._value("{fact}`nothing @00_start`", found)


def test_cards_count_the_verdicts_of_the_ledger():
    known = [("udfc", "reproduced"), ("udfc", "open"), ("udfc", "open"), ("frandi", "partly")]
    rows = [{"paper": paper, "state": state} for paper, state in known]
    soup = BeautifulSoup(front.page(rows, read_all(), pages.LABELS), "html.parser")
    for paper, counts in (("udfc", ["1 reproduced", "2 open"]), ("frandi", ["1 partly"]), ("layerwise", [])):
        card = soup.select_one(f"section.of-{paper}")
        assert [span.get_text() for span in card.select(".state")] == counts


def test_a_diagram_says_its_steps_and_turns_at_the_end_of_a_row():
    steps = [("a", "first & best"), ("b", "second"), ("c", "third")]
    svg = BeautifulSoup(diagrams.flow(steps, "The way"), "html.parser").svg
    assert svg["aria-label"] == "The way: a: first & best; b: second; c: third"
    boxes = [(int(r["x"]), int(r["y"])) for r in svg.find_all("rect")]
    assert boxes[0][1] == boxes[1][1] < boxes[2][1] and boxes[1][0] == boxes[2][0] > boxes[0][0]
    assert len(svg.find_all("path")) == 2


def test_images_are_laid_out_row_by_row(tmp_path):
    images = torch.stack([torch.full((3, 2, 2), k / 255) for k in range(7)])
    dreams._mosaic(images, 3, tmp_path / "m.webp")
    pixels = np.asarray(Image.open(tmp_path / "m.webp"))
    assert pixels.shape == (4, 6, 3)
    assert pixels[::2, ::2, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_hand_outs_have_their_numbers_on_record():
    found = read_all()
    for paper in handouts.handouts():
        page = handouts.page(paper, [], pages.LABELS[paper], found)
        assert "{fact}" not in page and "**What the authors do not say**" in page
        assert ('class="fact"' in page) == ("{fact}" in str(handouts.handouts()[paper].unsaid))
        assert "{fact}" not in handouts.page(paper, [], pages.LABELS[paper], [])


def test_a_hand_out_takes_claims_of_all_chapters_and_whole_ones_first():
    states = {"a1": "partly", "a2": "reproduced", "a3": "reproduced", "b1": "partly", "c1": "reproduced"}
    rows = [{"id": name, "state": state, "cell": f"{name[0]}#{name}"} for name, state in states.items()]
    assert [row["id"] for row in handouts.spread(rows, 3)] == ["a2", "b1", "c1"]
    assert handouts.spread(rows, 9) == rows
