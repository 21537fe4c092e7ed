"""AWS on this machine: the emulator, the model's endpoint, the stack on both, and a demonstration."""


class LocalError(Exception):
    """Something that the user can put right; its text says how."""
