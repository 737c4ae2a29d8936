"""LoRA adapters (Hu et al. 2021): PEFT's files, and their part in a forward pass."""
