import io

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from harmonize_cli.encoders.frames import FramesConfig, RawFrames


def test_raw_frames_pass_through():
    encoder = RawFrames(FramesConfig(size=8, height=4, colour="grey", rate=5))
    frames = np.arange(3 * 4 * 8, dtype=np.uint8).reshape(3, 4, 8, 1)
    assert encoder.encode_frames(frames) is frames
    assert encoder.spec.row_shape == encoder.request.row_shape == (4, 8, 1)
    assert (encoder.spec.rate, encoder.spec.regular) == (5.0, False)


def test_jpeg_rows_are_close_and_small():
    encoder = RawFrames(FramesConfig(size=64, format="jpeg", quality=92))
    y, x = np.mgrid[:64, :64]
    frame = np.stack([x * 3, y * 3, (x + y) * 2], -1).astype(np.uint8)
    (file,) = encoder.encode_frames(frame[None])
    back = np.asarray(Image.open(io.BytesIO(file)))
    assert np.abs(back.astype(int) - frame).mean() < 3
    assert len(file) < frame.nbytes / 3
    assert encoder.spec.kind == "jpeg"


def test_settings_change_the_hash():
    hashes = {
        RawFrames(FramesConfig(**kw)).spec.preprocessing_hash
        for kw in ({}, {"rate": 5}, {"size": 64}, {"fit": "stretch"}, {"colour": "grey"}, {"format": "jpeg"})
    }
    assert len(hashes) == 6


def test_grey_jpeg_is_refused():
    with pytest.raises(ValidationError, match="jpeg frames are rgb"):
        FramesConfig(format="jpeg", colour="grey")
