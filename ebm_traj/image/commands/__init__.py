"""The sub-commands of scripts/image.py, one module each: a dataclass `Args` and `main(args)`."""
