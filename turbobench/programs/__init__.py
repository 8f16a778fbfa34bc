"""The measuring programs of llama.cpp: one module each, with `argv` and `parse`, both pure."""
