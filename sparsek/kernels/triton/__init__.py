"""Triton forms of the core, for CUDA. Nothing here is imported before it is used: importing needs Triton."""
