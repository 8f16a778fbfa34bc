"""turbobench: speed, memory and quality of KV-cache quantization in llama.cpp, measured honestly."""

__version__ = "0.1.0"
