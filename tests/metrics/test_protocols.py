"""Others' definitions, against plain loops over what their scripts do."""

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from tiny_clip import write_tiny_clip
from transformers import CLIPModel

from idanim.faces.align import ARCFACE_TEMPLATE
from idanim.metrics.motion import motion_by_region
from idanim.metrics.people import Person
from idanim.metrics.protocols import Idanim, Judges, protocol_report
from idanim.metrics.published_protocols import ConsisId, OpenS2V, signed_motion
from idanim.metrics.text_alignment import ClipScorer
from idanim.models.curricular_face import IResNet101, load_curricular_face
from idanim.types import Face, IdanimError


class Lamp:
    """A frame whose first pixel is bright shows a face; its vector is (cos, sin) of the green value in degrees.

    Frames with a bright last pixel show their face only with a border around.
    """

    name = "test/lamp"

    def __init__(self):
        self.looked_at = []

    def detect(self, rgb):
        self.looked_at.append(rgb.shape)
        inner = rgb if rgb.shape[0] == 32 else rgb[8:-8, 8:-8]
        shy = inner[-1, -1, 0] > 200 and inner is rgb
        landmarks = (ARCFACE_TEMPLATE / 4 + (rgb.shape[0] - 32) / 2).astype(np.float32)
        return [Face((0, 0, 4, 4), landmarks, 1.0)] if inner[0, 0, 0] > 200 and not shy else []

    def embed(self, rgb, face):
        angle = math.radians(float(rgb[rgb.shape[0] // 2, rgb.shape[1] // 2, 1]))
        return np.array([math.cos(angle), math.sin(angle)], np.float32)


def video(*degrees, shy=False):
    """A frame a number; None for one without a face."""
    frames = np.zeros((len(degrees), 32, 32, 3), np.uint8)
    for frame, angle in zip(frames, degrees, strict=True):
        frame[..., 1] = angle or 0
        frame[0, 0, 0] = 0 if angle is None else 255
        frame[-1, -1, 0] = 255 if shy else 0
    return frames


def person(picture, photos=()):
    vector = np.array([[1, 0]], np.float32)
    return Person("ann", (picture,), vector, (vector,), "made", photos=photos)


REFERENCE = {"ann": person(video(0)[0])}


def arc(protocol, frames):
    return protocol.score(frames, "a hat", REFERENCE, Judges(Lamp()))["ann"]["face_sim_arc"]


@pytest.mark.parametrize(("protocol", "count"), [(ConsisId(), 16), (OpenS2V(), 32)])
def test_face_similarity_drops_frames_and_clamps(protocol, count):
    angles = [None if i % 3 == 0 else (i * 5) % 180 for i in range(41)]
    chosen = [angles[int(i * 40 / (count - 1) + 1e-9)] for i in range(count)]
    expected = [max(0.0, math.cos(math.radians(a))) for a in chosen if a is not None]
    assert 0.0 in [round(v, 6) for v in expected]
    assert arc(protocol, video(*angles)) == pytest.approx(np.mean(expected), abs=1e-6)


def test_one_good_frame_scores_like_sixteen():
    """The flaw that our own face_similarity does not have."""
    assert arc(ConsisId(), video(0, *[None] * 15)) == pytest.approx(1)
    assert arc(ConsisId(), video(*[None] * 16)) == 0


def test_a_frame_without_a_face_is_tried_again_with_a_border():
    engine, protocol = Lamp(), ConsisId(num_frames=2)
    arc(protocol, video(0))  # sees the reference
    figures = protocol.score(video(60, 60, shy=True), "", REFERENCE, Judges(engine))
    assert figures["ann"]["face_sim_arc"] == pytest.approx(0.5, abs=1e-6)
    assert engine.looked_at == [(32, 32, 3), (48, 48, 3)] * 2


def test_clip_score_is_the_scaled_cosine_of_swapped_colours(tmp_path):
    folder = write_tiny_clip(tmp_path / "clip")
    clip = ClipScorer.from_pretrained(folder)
    frames = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    figures = ConsisId().score(frames, "a red hat", REFERENCE, Judges(Lamp(), clip))["ann"]
    swapped = frames[[int(i * 20 / 16) for i in range(16)]][..., [2, 1, 0]]
    scale = float(CLIPModel.from_pretrained(folder).logit_scale.detach().exp())
    cosines = [float(clip.picture_features(f[None])[0] @ clip.text_features("a red hat")) for f in swapped]
    assert figures["clip_score"] == pytest.approx(scale * np.mean(cosines), abs=1e-4)
    assert figures["face_sim_cur"] is figures["fid"] is None
    assert ConsisId().score(frames, "", REFERENCE, Judges(Lamp()))["ann"]["clip_score"] is None


def texture():
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def shaken(offsets):
    return np.stack([np.roll(texture(), offset, axis=1) for offset in offsets])


def test_motion_amplitude_of_a_shaking_head_is_nothing():
    diagonal = np.hypot(64, 96)
    shaking, panning = shaken([0, 3, 0, -3, 0]), shaken([0, 3, 6, 9, 12])
    assert signed_motion(panning) == pytest.approx(1.5, abs=0.2)  # 3 px to the side, none up or down
    assert signed_motion(shaking) < 0.05
    assert motion_by_region(shaking, {}).everywhere * diagonal == pytest.approx(3, abs=0.2)
    assert signed_motion(shaking[:1]) is None


def test_motion_amplitude_matches_averaging_maps():
    frames = shaken([0, 2, 5])
    blue_as_red = [cv2.cvtColor(np.ascontiguousarray(f[..., ::-1]), cv2.COLOR_RGB2GRAY) for f in frames]
    total = np.zeros((10, 16, 2))
    for a, b in pairwise(blue_as_red):
        flow = cv2.calcOpticalFlowFarneback(
            a, b, None, pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0
        )
        total += cv2.resize(flow, (16, 10), interpolation=cv2.INTER_AREA)
    assert signed_motion(frames) == pytest.approx(abs((total / 2).mean()), rel=1e-5)
    figures = OpenS2V().score(frames, "", REFERENCE, Judges(Lamp()))["ann"]
    assert figures["motion_amplitude"] == signed_motion(frames)


def test_report_says_what_is_wrong_and_averages_over_videos():
    rows = {"adapter": [{"face_sim_arc": 0.2, "fid": None}, {"face_sim_arc": 0.4, "fid": None}]}
    found = protocol_report(ConsisId(), rows, Judges(Lamp()))
    assert found.figures["adapter"] == {
        "face_sim_arc": {"mean": pytest.approx(0.3), "n": 2},
        "fid": {"mean": None, "n": 0},
    }
    assert any("red and blue swapped" in flaw for flaw in found.flaws)
    assert any("CurricularFace" in departure for departure in found.departures)
    assert Idanim().score(video(0), "", REFERENCE, Judges(Lamp())) == {"ann": {}}


def write_colour_network(path, side):
    """An .onnx network [N, 3, side, side] → [N, 3]: the mean of each channel."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, kind, s) for n, s in (("x", ["n", 3, side, side]), ("y", ["n", 3]))]
    graph = helper.make_graph(nodes, "colour", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return str(path)


def coloured(*rgb):
    """A face frame of one colour, without the lamp's own marks in its crop."""
    frames = np.full((4, 32, 32, 3), 0, np.uint8)
    frames[:] = rgb
    frames[:, 0, 0, 0], frames[:, -1, -1, 0] = 255, 0
    return frames


def test_networks_of_the_user_see_the_crops_of_their_scripts(tmp_path):
    curricular = write_colour_network(tmp_path / "cur.onnx", 112)
    inception = write_colour_network(tmp_path / "inception.onnx", 299)
    people = {"ann": person(coloured(0, 0, 255)[0])}
    near, far = coloured(0, 0, 205), coloured(50, 0, 255)
    protocol = ConsisId(4, curricular, inception)
    same = protocol.score(coloured(0, 0, 255), "", people, Judges(Lamp()))["ann"]
    assert same["face_sim_cur"] == pytest.approx(1, abs=1e-6)
    assert same["fid"] == pytest.approx(0, abs=1e-9)
    # The crop is some 1.75 times the frame, so its inside has one colour, and the lamp's marks are hardly seen.
    assert protocol.score(near, "", people, Judges(Lamp()))["ann"]["fid"] > 0.001
    colours = np.array([[-1, -1, 1], [50 / 127.5 - 1, -1, 1]])
    expected = colours[0] @ colours[1] / np.linalg.norm(colours[0]) / np.linalg.norm(colours[1])
    found = protocol.score(far, "", people, Judges(Lamp()))["ann"]["face_sim_cur"]
    assert found == pytest.approx(expected, abs=0.05)
    assert [name.rpartition("-")[0] for name in protocol.models] == ["cur.onnx", "inception.onnx"]
    assert not any("left out" in text for text in protocol.departures(Judges(Lamp())) if "clip" not in text)


def test_opens2v_drops_frames_whose_similarity_is_nothing(tmp_path):
    curricular = write_colour_network(tmp_path / "cur.onnx", 112)
    people = {"ann": person(coloured(255, 255, 255)[0])}
    frames = np.concatenate([coloured(255, 255, 255)[:2], coloured(0, 0, 0)[:2]])  # vectors (1, 1, 1), (-1, -1, -1)
    consisid = ConsisId(4, curricular).score(frames, "", people, Judges(Lamp()))["ann"]
    opens2v = OpenS2V(4, curricular).score(frames, "", people, Judges(Lamp()))["ann"]
    assert consisid["face_sim_cur"] == pytest.approx(0.5, abs=0.01)
    assert opens2v["face_sim_cur"] == pytest.approx(1, abs=0.01)


def test_a_reference_without_a_face_gives_no_figures_of_faces():
    people = {"ann": person(np.zeros((32, 32, 3), np.uint8))}
    for protocol in (ConsisId(), OpenS2V()):
        assert protocol.score(video(0, 0), "", people, Judges(Lamp()))["ann"]["face_sim_arc"] is None


def test_weights_that_are_no_curricular_face_are_refused(tmp_path):
    torch.save({"body.0.weight": torch.zeros(3)}, tmp_path / "wrong.bin")
    with pytest.raises(IdanimError, match="not CurricularFace's IResNet-101"):
        ConsisId(curricular=str(tmp_path / "wrong.bin"))
    with pytest.raises(IdanimError, match="there is no such file"):
        OpenS2V(curricular=str(tmp_path / "none.bin"))
    with pytest.raises(IdanimError, match="no such file"):
        ConsisId(inception=str(tmp_path / "none.onnx"))


@pytest.mark.slow
def test_a_checkpoint_of_curricular_face_is_read(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = IResNet101().eval()
    assert sum(p.numel() for p in network.parameters()) == 65_150_912  # IR_101, as published
    torch.save(network.state_dict(), tmp_path / "cur.bin")
    crops = np.random.default_rng(0).uniform(-1, 1, (1, 3, 112, 112)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(crops)).numpy()
    np.testing.assert_array_equal(load_curricular_face(tmp_path / "cur.bin")(crops), expected)
