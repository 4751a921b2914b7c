"""Tests and intervals for fitted models."""
