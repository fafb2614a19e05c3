import torch

# Samplers draw the same bits for any thread count; one thread is what a shared machine runs fastest.
torch.set_num_threads(1)
