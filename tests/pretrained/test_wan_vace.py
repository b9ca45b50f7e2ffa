"""The control video and the mask of Wan-VACE pipelines."""

from __future__ import annotations

import torch

from worldsim.pretrained.stable_video import animated_picture
from worldsim.pretrained.wan_vace import video_and_mask

PAST = torch.full((2, 3, 1, 2), 255, dtype=torch.uint8)
CONTROL = torch.full((1, 3, 1, 2), 51, dtype=torch.uint8)
KNOWN = torch.tensor([[[True, False]]])


def test_holes_are_grey_and_masked() -> None:
    video, mask = video_and_mask(PAST, CONTROL, KNOWN)
    assert video.shape == mask.shape == (3, 3, 1, 2)
    torch.testing.assert_close(video[:, 0, 0], torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.2, 0.5]]))
    assert mask[:, 1, 0].tolist() == [[0, 0], [0, 0], [0, 1]]


def test_leading_axes_are_kept() -> None:
    video, mask = video_and_mask(PAST[None], CONTROL[None], KNOWN[None])
    alone = video_and_mask(PAST, CONTROL, KNOWN)
    torch.testing.assert_close((video[0], mask[0]), alone)


def test_the_newest_frame_fills_holes_of_the_animated_picture() -> None:
    picture = animated_picture(PAST, CONTROL, KNOWN)
    assert picture[:, 0].tolist() == [[51, 255]] * 3
    torch.testing.assert_close(animated_picture(PAST[None], CONTROL[None], KNOWN[None])[0], picture)
