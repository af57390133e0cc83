"""Arrays to features: frames, waveform, log-mel, word tokens, open_clip towers."""
