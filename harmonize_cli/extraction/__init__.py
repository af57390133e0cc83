"""The stage that joins data sets, media, encoders and store: videos and captions to features."""
