"""The frozen backbone, LoRA, the head, the budget and the packed pass."""

import logging

# peft imports bitsandbytes, which on processors with bfloat16 products asks for a package that no one here needs, on
# standard error of every command.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
