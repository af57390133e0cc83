import numpy as np
import pytest
from media_samples import grey_frames, make_clip, tone


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Good and bad files, 4 s each."""
    folder = tmp_path_factory.mktemp("media")
    make_clip(folder / "a.mkv", grey_frames(40, 16, 16), tone(4.0))
    make_clip(folder / "b.mkv", grey_frames(40, 16, 16)[::-1], tone(4.0, hz=700))
    make_clip(folder / "mute.mkv", grey_frames(40, 16, 16))
    make_clip(folder / "silent.mkv", grey_frames(40, 16, 16), np.zeros(64000, np.float32))
    make_clip(folder / "sound.wav", wave=tone(4.0), acodec="pcm_s16le")
    (folder / "empty.mp4").write_bytes(b"")
    whole = (folder / "a.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 5])
    return folder
