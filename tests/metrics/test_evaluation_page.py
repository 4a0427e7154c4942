"""report.html in a real browser."""

import re
from dataclasses import asdict, replace

import av
import numpy as np
import pytest
from browser import complaints, open_page, start_browser

from idanim.metrics.evaluation_page import playable, video_rows, write_evaluation_page
from idanim.metrics.scoring import VideoScore
from idanim.metrics.summary import report
from idanim.pictures import encode_jpeg
from idanim.video import read_frames
from idanim.video_encoding import encode_mp4

NASTY = 'a <script>alert(1)</script> & "quoted" </script><img src=x onerror=alert(2)>'


def score(number, system="adapter", person="ann", similarity=0.5, faces=4, **values):
    made = VideoScore(
        video=f"{system}/{person or 'nobody'}/{number} #%.mp4",
        system=system,
        identity=person or "ann",
        shown=person,
        prompt=f"prompt {number}",
        group="hair" if number % 2 else "age",
        seed=0,
        num_frames=4,
        num_faces=faces,
        face_similarity=similarity,
        detected_face_similarity=similarity if faces else None,
        chance_similarity=0.1,
        retrieval_rank1=1.0,
        face_detection_rate=faces / 4,
        motion=0.01 * number,
    )
    return replace(made, **values)


SCORES = [
    score(1, similarity=0.9),
    score(2, similarity=0.2, prompt=NASTY),
    score(1, person="bob", similarity=0.0, faces=0),
    score(2, person="bob", similarity=0.0, faces=0, motion=None, problem="unreadable: torn"),
    score(1, system="other", similarity=0.6),
    score(1, system="no_adapter", person="", similarity=-0.1),
]


def film(shift=0):
    frames = np.full((8, 32, 48, 3), 90, np.uint8)
    for i, frame in enumerate(frames):
        frame[8:24, i + shift : i + shift + 16] = (250, 120, 20)
    return frames


def write_page(folder, scores=SCORES, limit=64.0, **more):
    videos = {row.video for row in scores if not row.problem}
    for name in videos:
        (folder / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "videos" / name).write_bytes(encode_mp4(film(), 8))
    result = report(scores, {"ann": [], "bob": []}, "adapter") | more
    for row in result["videos"]:
        row["people_group"] = "celebrity" if row["identity"] == "ann" else "ordinary"
    strip = encode_jpeg(np.concatenate(list(film()[:3]), axis=1))
    references = {name: film()[0] for name in ("ann", "bob")}
    path = folder / "report.html"
    strips = dict.fromkeys(videos, strip)
    write_evaluation_page(path, result, ["a note <b>"], folder / "videos", references, strips, limit)
    return path


# --------------------------------------------------------------------------------------------- rows


def test_failures_come_first_and_nobody_last():
    rows = video_rows([asdict(row) for row in SCORES])
    assert [(row["system"], row["person"], row["prompt"]) for row in rows] == [
        ("adapter", "bob", "prompt 2"),  # unreadable
        ("adapter", "bob", "prompt 1"),  # no face
        ("adapter", "ann", NASTY),
        ("other", "ann", "prompt 1"),
        ("adapter", "ann", "prompt 1"),
        ("no_adapter", "", "prompt 1"),
    ]


def test_a_video_compared_with_several_people_is_one_row():
    rows = [asdict(score(1, person="", similarity=s)) | {"a_new_metric": s} for s in (0.1, 0.3)]
    (row,) = video_rows(rows)
    assert row["scores"]["face_similarity"] == row["scores"]["a_new_metric"] == pytest.approx(0.2)
    assert "num_faces" not in row["scores"]


def test_what_has_no_room_is_linked(tmp_path):
    size = len(encode_mp4(film(), 8)) * 4 / 3 / 1024**2
    text = write_page(tmp_path, limit=6 * size).read_text()
    whole = write_page(tmp_path / "whole").read_text()
    assert whole.count("data:video/mp4") == 5
    assert 1 <= text.count("data:video/mp4") < 5
    bare = write_page(tmp_path, limit=0).read_text()
    assert "data:video/mp4" not in bare
    assert '"videos/adapter/ann/1%20%23%25.mp4"' in bare


def test_videos_that_browsers_do_not_play_are_encoded_anew(tmp_path):
    path = tmp_path / "old.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for rgb in film():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    content = playable(path)
    assert b"avc1" in content
    assert b"avc1" not in path.read_bytes()
    assert np.abs(read_frames(content).astype(int) - film()).mean() < 10
    (tmp_path / "new.mp4").write_bytes(encode_mp4(film(), 8))
    assert playable(tmp_path / "new.mp4") == (tmp_path / "new.mp4").read_bytes()


# ------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def browser():
    browser = start_browser()
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    paired = [{"systems": "adapter, other", "difference": 0.12345, "p": 0.03}]
    return write_page(tmp_path_factory.mktemp("page"), paired_tests=paired)


@pytest.fixture
def opened(browser, page):
    open_page(browser, page)
    return browser


def cells(browser, table, column):
    script = (
        "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].map(r => r.cells[arguments[1]].innerText)"
    )
    return browser.execute_script(script, table, column)


def header(browser, table, name):
    titles = browser.find_elements("css selector", f"#{table} th")
    return next(title for title in titles if title.text.rstrip(" ▲▼") == name)


def choose(browser, select, value):
    script = """const select = document.getElementById(arguments[0]);
    select.value = arguments[1]; select.dispatchEvent(new Event("change"));"""
    browser.execute_script(script, select, value)


def test_page_opens_offline_without_complaint(opened):
    assert opened.title == "Evaluation"
    assert opened.find_element("id", "count").text == "6 of 6 videos"
    assert [text.split(" (")[0] for text in cells(opened, "ranking", 0)][:3] == ["other", "adapter", "no_adapter"]
    loaded = "return [...document.images].every(i => i.complete && i.naturalWidth > 0) && document.images.length"
    assert opened.execute_script(loaded) >= 10
    assert cells(opened, "other-3", 1) == ["0.123"]  # a table that nobody told the page of
    assert complaints(opened) == []


def test_texts_are_shown_and_not_run(opened):
    assert NASTY in "\n".join(cells(opened, "videos", 1))
    assert "a note <b>" in opened.find_element("class name", "notes").text
    assert opened.find_elements("css selector", "img[onerror]") == []


def test_failures_first_then_sorted_by_a_click(opened):
    first = cells(opened, "videos", 1)
    assert "unreadable: torn" in first[0]
    title = header(opened, "videos", "face_similarity")
    column = opened.execute_script("return arguments[0].cellIndex", title)
    title.click()
    assert cells(opened, "videos", column) == ["0.9", "0.6", "0.2", "0", "0", "-0.1"]
    title.click()
    assert cells(opened, "videos", column) == ["-0.1", "0", "0", "0.2", "0.6", "0.9"]
    header(opened, "videos", "motion").click()
    motion = opened.execute_script("return arguments[0].cellIndex", header(opened, "videos", "motion"))
    assert cells(opened, "videos", motion)[-1] == "–"
    opened.find_element("id", "failures-first").click()
    assert cells(opened, "videos", 1) == first


def test_ranking_sorts_by_the_number_before_the_interval(opened):
    title = header(opened, "ranking", "face_similarity")
    title.click()
    title.click()
    values = [float(re.match(r"[-\d.]+", text)[0]) for text in cells(opened, "ranking", 1) if text != "–"]
    assert values == sorted(values)
    assert cells(opened, "ranking", 1)[-1] == "–"


def test_filters(opened):
    count = opened.find_element("id", "count")
    choose(opened, "filter-system", "adapter")
    assert count.text == "4 of 6 videos"
    choose(opened, "filter-people_group", "ordinary")
    assert count.text == "2 of 6 videos"
    opened.find_element("id", "filter-failures").click()
    assert count.text == "1 of 6 videos"
    opened.find_element("id", "filter-text").send_keys("no such words")
    assert count.text == "0 of 6 videos"
    assert complaints(opened) == []


def test_embedded_videos_play(opened):
    opened.set_script_timeout(30)
    played = """const done = arguments[0], videos = [...document.querySelectorAll("#videos video")];
    document.getElementById("play-all").click();
    const wait = n => setTimeout(() => {
      if (n === 0 || videos.every(v => v.error || v.currentTime > 0.1))
        done(videos.map(v => [v.videoWidth, v.videoHeight, v.error && v.error.message, v.currentTime > 0.1]));
      else wait(n - 1);
    }, 100);
    wait(200);"""
    states = opened.execute_async_script(played)
    assert states == [[48, 32, None, True]] * 5
    assert complaints(opened) == []


def test_linked_videos_play(browser, tmp_path):
    open_page(browser, write_page(tmp_path, limit=0))
    browser.set_script_timeout(30)
    script = """const done = arguments[0], video = document.querySelector("#videos video");
    video.addEventListener("timeupdate", () => done([video.videoWidth, video.src.startsWith("file:")]));
    video.addEventListener("error", () => done(video.error.message)); video.play();"""
    assert browser.execute_async_script(script) == [48, True]
    assert complaints(browser) == []


def test_grids_of_people_and_of_systems(opened):
    def shown():
        read = "return [...document.querySelectorAll('#grid tr')].map(r => [...r.cells].map(c => c.innerText.trim()))"
        return opened.execute_script(read)

    people = shown()
    assert people[0] == ["", "prompt 1", NASTY, "prompt 2"]
    assert [row[0] for row in people[1:]] == ["ann", "bob"]
    assert people[1][1:] == ["0.9", "0.2", ""]
    choose(opened, "grid-rows", "systems")
    assert [row[:2] for row in shown()[1:]] == [["adapter", "0.9"], ["no_adapter", "-0.1"], ["other", "0.6"]]
    opened.find_element("css selector", "#grid .cell").click()
    assert len(opened.find_elements("css selector", "#grid video")) == 1
    assert complaints(opened) == []


def test_figures_by_group(opened):
    read = "return [...document.querySelectorAll('#groups tr')].map(r => [...r.cells].map(c => c.innerText))"
    table = opened.execute_script(read)
    assert table[0] == ["system", "hair", "age"]
    assert table[1][0] == "adapter"
    assert table[1][1].startswith("0.45 [0, 0.9]")


def test_thousands_of_rows_open_a_page_at_a_time(browser, tmp_path):
    rows = [score(number, problem="missing: gone", num_faces=0) for number in range(3000)]
    open_page(browser, write_page(tmp_path, [*rows, score(3001)]))
    assert browser.find_element("id", "count").text == "3001 of 3001 videos"
    number = "return document.querySelectorAll('#videos tbody tr').length"
    assert browser.execute_script(number) == 40
    browser.find_element("id", "more").click()
    assert browser.execute_script(number) == 80
    assert complaints(browser) == []
