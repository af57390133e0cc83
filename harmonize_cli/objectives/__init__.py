"""Contrastive losses over pairs and triples of modalities, registered by name."""
