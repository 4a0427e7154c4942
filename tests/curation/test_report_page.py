"""`report.html`: complete, offline, bounded, and safe against what file names may hold."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from drawn_people import make_sample
from square_faces import SquareFaces, curate, draw, person, write_mp4

from idanim.curation import report_page
from idanim.curation.report_page import Histogram, histograms
from idanim.curation.witness import NUM_SHOWN, Witness
from idanim.pictures import decode_picture


class Page(HTMLParser):
    """Collects pictures and everything that points elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.pictures, self.links, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "src":
                self.pictures.append(value)
            elif name in ("href", "srcset", "data", "action"):
                self.links.append(value)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_mp4(folder / "in" / "anna__0.mp4", person(40))
    write_mp4(folder / "in" / "<script>alert(1)<_script>.mp4", person(42))
    for i in range(4):
        write_mp4(folder / "in" / f"pair{i}.mp4", np.stack([draw(("red", "green"), x=10 + i)] * 20))
    (folder / "in" / "text.mp4").write_text("not a video")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_page, "MAX_REJECTED", 3)
        output = curate(folder / "in", folder / "out")
    assert sorted(path.suffix for path in (output / "work" / "videos").iterdir()).count(".jpg") == 4
    return (output / "report.html").read_text()


def test_it_needs_no_network_and_pictures_can_be_seen(page):
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert "link" not in parsed.tags
    assert "://" not in page
    assert set(parsed.links) == {"#several_faces", "#not_a_video"}
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in parsed.pictures)
    assert "url(" not in page


def test_counts_pictures_and_histograms(page):
    assert "2 of 7 videos accepted" in page
    assert "several_faces: 3 of 4" in page
    assert "not_a_video: 1 of 1" in page
    assert len(Page(page).pictures) == 2 * (1 + 5) + 3  # frame and faces of what was accepted, a strip a rejected one
    for words in ("face size", "yaw", "pitch", "similarity", "sharpness", "clip length"):
        assert len(re.findall(f"<text[^>]*>{words}.*n = ", page)) == 1


def test_names_are_text_not_markup(page):
    assert "&lt;script&gt;alert(1)" in page


def test_histograms_count_own_pool_faces():
    metas = [make_sample(person, num_clips=3).meta for person in range(4)]
    found = {histogram.title.split(" (")[0]: histogram for histogram in histograms(metas)}
    assert sum(found["face size"].counts) == 4 * 5
    assert found["face size"].median == 16
    assert sum(found["similarity of two faces of one clip"].counts) == 4 * 10
    assert found["similarity of two faces of one clip"].low > 0.5
    assert histograms([]) == []


def test_histogram_of_one_value():
    histogram = Histogram.of("same", [3.0] * 7)
    assert sum(histogram.counts) == 7
    assert histogram.low < 3 < histogram.high


class TestWitness:
    def test_frames_are_spread_and_few_and_faces_the_engines_own(self):
        engine = SquareFaces()
        witness = Witness(engine)
        for i in range(1000):
            rgb = draw(("red",), height=90, width=160, shade=i // 4)
            assert [face.box for face in witness.detect(rgb)] == [face.box for face in engine.detect(rgb)]
        assert witness.name == engine.name
        assert len(witness._kept) < 2 * NUM_SHOWN
        strip = decode_picture(witness.picture(), "strip")
        assert strip.shape == (108, NUM_SHOWN * 192, 3)
        reds = [int(strip[60, x + 60, 0]) for x in range(0, NUM_SHOWN * 192, 192)]
        assert reds == sorted(reds, reverse=True)
        assert reds[0] - reds[-1] > 150

    @pytest.mark.parametrize(("height", "width"), [(1, 4000), (4000, 1), (2, 2)])
    def test_any_shape(self, height, width):
        witness = Witness(SquareFaces())
        witness.detect(np.zeros((height, width, 3), np.uint8))
        assert decode_picture(witness.picture(), "strip").shape[0] == 108

    def test_nothing_seen(self):
        assert Witness(SquareFaces()).picture() is None
