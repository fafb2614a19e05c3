import signal

import torch

# Samplers draw the same bits for any thread count; one thread is what a shared machine runs fastest.
torch.set_num_threads(1)

# A shell that starts a run in the background has it, and all that it starts, ignore Ctrl-C, which tests press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
