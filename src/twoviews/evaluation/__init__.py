"""What an encoder's vectors are worth: neighbours, probes, fine-tuning, label-free health and the verdict.

Everything here sees vectors, tensors, ids and labels; only `gallery` shows the samples themselves.
"""
