"""Classifiers that a probe trains on frozen features."""
