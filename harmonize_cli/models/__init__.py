"""VATT: tokenisers, one transformer for three modalities, projection heads."""
