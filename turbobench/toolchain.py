"""The tools of the host."""
def install_hint(x: str) -> str: return x
