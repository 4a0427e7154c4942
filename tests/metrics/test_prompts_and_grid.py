import pytest

from idanim.metrics.grid import NOBODY, Cell, grid, slug
from idanim.metrics.prompts import Prompt, load_prompts
from idanim.types import IdanimError


def test_text_file_has_one_prompt_a_line(tmp_path):
    path = tmp_path / "my prompts.txt"
    path.write_text("# a comment\na man, smiling\n\n  ein Mann im Schnee ☃ \na man, smiling\n", encoding="utf-8")
    assert load_prompts(str(path)) == [Prompt("a man, smiling"), Prompt("ein Mann im Schnee ☃")]


def test_jsonl_file_has_groups(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a hat", "group": "clothing"}\n{"prompt": "a face"}\n')
    assert load_prompts(str(path)) == [Prompt("a hat", "clothing"), Prompt("a face", "all")]


def test_a_text_with_blanks_is_one_prompt():
    assert load_prompts("A man, smiling (close-up), f=1.8") == [Prompt("A man, smiling (close-up), f=1.8")]


def test_list_is_taken_as_it_is():
    assert load_prompts(["a", " b "]) == [Prompt("a"), Prompt("b")]


def test_shipped_prompts_cover_the_axes_of_the_paper():
    prompts = load_prompts("default")
    assert {p.group for p in prompts} == {"hair", "clothing", "background", "action", "age", "gender"}
    assert len({p.text for p in prompts}) == len(prompts)


def test_the_benchmark_suite_tries_every_axis_equally():
    prompts = load_prompts("benchmark")
    groups = [p.group for p in prompts]
    assert {group: groups.count(group) for group in groups} == dict.fromkeys(
        ("hair", "clothing", "background", "action", "age", "gender"), 8
    )
    assert len({p.text for p in prompts}) == 48
    assert len({Cell("a", "b", p, 0).path for p in prompts}) == 48
    assert not {p.text for p in prompts} & {p.text for p in load_prompts("default")}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "\n# only a comment\n", "no prompt in it"),
        ("broken.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2: can.t be read as JSON"),
        ("wrong.jsonl", '{"text": "a"}\n', "line 1: expected"),
        ("list.jsonl", "[1, 2]\n", "line 1: expected"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(IdanimError, match=message):
        load_prompts(str(tmp_path / name))


def test_binary_and_missing_files_are_named(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(IdanimError, match="not a UTF-8 text file"):
        load_prompts(str(tmp_path / "p.txt"))
    with pytest.raises(IdanimError, match="shipped: benchmark, default"):
        load_prompts("defaults")
    with pytest.raises(IdanimError, match="no prompt"):
        load_prompts([" "])
    with pytest.raises(IdanimError, match="an empty prompt among"):
        load_prompts(["a", " "])


def test_grid_has_every_combination_once_at_its_own_place():
    prompts = [Prompt("a man"), Prompt("a man!"), Prompt("男人"), Prompt("女人"), Prompt("x" * 200), Prompt("x" * 201)]
    cells = grid("adapter", ["Zoë", "Zoe", "../up"], prompts, [0, 1])
    assert len(cells) == 3 * 6 * 2
    paths = {cell.path for cell in cells}
    assert len(paths) == len(cells)
    assert all(len(path.parts) == 3 and ".." not in path.parts and path.as_posix().isascii() for path in paths)
    assert Cell("adapter", "", prompts[0], 0).path.parts[1] == "nobody"


def test_slug_keeps_plain_names():
    assert slug("person_01") == "person_01"
    assert slug("A man, smiling").startswith("A-man-smiling-")


ODD_NAMES = ["..", "../../etc/passwd", "/abs", "人", "é", "e\u0301", "-", ".", "a\nb", "\udcff", "nobody "]
ODD_NAMES += ["a" * 300, "a" * 301]


def test_no_identity_leaves_the_folder_or_takes_the_place_of_another():
    paths = [Cell("adapter", name, Prompt(name), 0).path for name in (*ODD_NAMES, NOBODY)]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert len(path.parts) == 3
        for part in path.parts:
            assert part.isascii()
            assert len(part) < 80
            assert part not in (".", "..")
            assert "/" not in part
