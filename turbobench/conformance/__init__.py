"""One conformance for all backends: what each must do, and the checks that show it."""
