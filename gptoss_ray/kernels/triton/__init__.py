"""Triton kernels for GPUs of architecture sm_90 and later. Never run on a GPU as yet."""
