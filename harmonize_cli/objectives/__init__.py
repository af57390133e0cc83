"""Contrastive losses over three modalities."""
