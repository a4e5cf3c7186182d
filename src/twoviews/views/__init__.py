"""Augmentation of whole batches on their device: draws, operations, policies, contact sheet."""
