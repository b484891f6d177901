"""The packages of the optional extra ``predict``."""

from importlib import import_module

from common.errors import BadInput


def need(package: str, purpose: str) -> None:
    """Check that an optional package is installed.

    Args:
        package: Its module.
        purpose: What needs it, for the message.

    Raises:
        BadInput: It is not.
    """
    try:
        import_module(package)
    except ImportError:
        raise BadInput(
            f"{purpose} needs the package {package}, which is not installed: "
            "pip install 'fedcxr[predict]'"
        ) from None
