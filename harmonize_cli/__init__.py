"""Video-audio-text pre-training with cross-modality gradient harmonization."""

__version__ = "0.1.0"
