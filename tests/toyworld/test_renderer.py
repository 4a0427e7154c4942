import pytest
import torch

from idanim.toyworld.people import (
    ACTIONS,
    NUM_VALUES,
    Attributes,
    Scene,
    sample_identities,
    sample_pose,
    sample_scene,
)
from idanim.toyworld.renderer import locate, render


def make_scene(seed: int, people: int = 6, clips_per_person: int = 1, num_frames: int = 4) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    identity = sample_identities(people, generator).repeat_interleave(clips_per_person, 0)
    return sample_scene(identity, num_frames, generator)


def test_same_seed_same_pixels() -> None:
    first, second = render(make_scene(3), 32), render(make_scene(3), 32)
    assert first.shape == (6, 4, 3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, second)
    assert not torch.equal(first, render(make_scene(4), 32))


def test_pixels_do_not_depend_on_the_batch() -> None:
    scene = make_scene(0)
    whole = render(scene, 32, batch_size=128).int()
    for part in (render(scene, 32, batch_size=5).int(), torch.cat([render(scene.select([i]), 32) for i in range(6)])):
        assert (whole - part).abs().max() <= 1  # rounding of a last bit


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    render(make_scene(0), 16)
    assert torch.equal(before, torch.get_rng_state())


def test_two_clips_of_a_person_share_identity_but_no_picture() -> None:
    scene = make_scene(1, clips_per_person=2)
    assert torch.equal(scene.identity[0::2], scene.identity[1::2])
    frames = render(scene, 32).float()
    assert (frames[0::2] - frames[1::2]).abs().mean(dim=(1, 2, 3, 4)).min() > 5


def test_no_two_of_thousands_of_people_are_alike() -> None:
    identity = sample_identities(4000, torch.Generator().manual_seed(0))
    assert identity.shape[1] == 29
    assert identity.min() >= 0
    assert identity.max() <= 1
    distance = torch.cdist(identity, identity) + 9 * torch.eye(len(identity))
    assert distance.min() > 0.3


@pytest.mark.parametrize("field", ["background", "shirt", "hat", "glasses", "hair_colour", "hair_style"])
def test_every_attribute_is_visible_and_changes_no_other_truth(field: str) -> None:
    generator = torch.Generator().manual_seed(0)
    scene = make_scene(0, people=1)
    plain = Attributes(*(torch.zeros(1, dtype=torch.long) for _ in NUM_VALUES))
    pose = sample_pose(plain.action, 1, generator)
    changed = plain._replace(**{field: plain._asdict()[field] + 1})
    pictures = [render(Scene(scene.identity, a, pose, scene.light), 32).float() for a in (plain, changed)]
    assert (pictures[0] - pictures[1]).abs().max() > 30


def test_landmarks_lie_on_the_features() -> None:
    """The eyes are white or iris-coloured: another eye hue changes pixels only around the eye landmarks."""
    scene = make_scene(2, people=12, num_frames=1)
    scene = Scene(scene.identity, scene.attributes._replace(glasses=torch.zeros(12).long()), scene.pose, scene.light)
    column = 10  # eye_hue
    other = scene.identity.clone()
    other[:, column] = (other[:, column] + 0.5) % 1
    size = 64
    change = (render(scene, size).float() - render(scene._replace(identity=other), size).float()).abs().sum(2)[:, 0]
    boxes, landmarks = locate(scene.identity, scene.pose[:, 0], size)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    places = torch.stack([columns, rows], -1).float()
    for picture, points, box in zip(change, landmarks, boxes, strict=True):
        changed = places[picture > 0.2 * picture.max()]
        distance = torch.cdist(changed, points[:2]).min(1).values
        assert distance.max() < 0.12 * size
        assert (points[0, 0] < points[1, 0]) & (points[3, 0] < points[4, 0])
        assert (points > box[:2]).all()
        assert (points < box[2:] + 2).all()


def test_actions_move_what_they_say() -> None:
    pose = sample_pose(torch.arange(len(ACTIONS)), 8, torch.Generator().manual_seed(0))
    travelled = dict(zip(ACTIONS, pose[:, -1] - pose[:, 0], strict=True))
    spread = dict(zip(ACTIONS, pose.amax(1) - pose.amin(1), strict=True))
    assert travelled["moving right"][0] > 0.2 > -0.2 > travelled["moving left"][0]
    assert travelled["turning right"][3] > 0.4 > -0.4 > travelled["turning left"][3]
    assert spread["shaking head"][3] > 1
    assert spread["nodding"][4] > 1
    assert travelled["smiling"][5] > 0.5
    assert spread["talking"][6] > 0.5
    assert spread["blinking"][7] > 0.5


def test_values_are_counted() -> None:
    attributes = make_scene(0, people=2000, num_frames=1).attributes._asdict()
    assert {name: int(value.max()) + 1 for name, value in attributes.items()} == NUM_VALUES
