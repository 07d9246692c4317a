"""Memory of a GPU."""

import torch


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that is free for tensors, the unused part of PyTorch's cache included."""
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached
