import os
import pwd


def operator() -> str:
    """The account that runs this process: of the system, and not what the environment says."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a container may run as a number that nobody gave a name
        return f"uid {number}"
