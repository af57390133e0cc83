"""Files on disk to arrays: finding ffmpeg, running it safely, probing and decoding."""
