"""The turbo3/turbo4 codec: the numpy reference, the training of its codebooks, and the generator of the C tables."""
