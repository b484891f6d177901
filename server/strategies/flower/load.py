"""Finding and making a strategy ``package.module:Class``, whose code runs in the server."""

import importlib
import inspect
import logging
import sys

from common.errors import BadInput
from common.state import State, is_float, parameters_of
from server.strategies.base import Strategy
from server.strategies.flower.adapted import Adapted, in_short
from server.strategies.flower.legacy import Legacy, initial_parameters
from server.strategies.flower.records import Records
from server.strategies.settings import StrategySettings

log = logging.getLogger(__name__)

GIVEN = "initial_parameters"
"""Argument of a constructor that is not for ``--strategy-args``."""


def load_strategy(settings: StrategySettings, mean: Strategy, first: State) -> Strategy:
    """Return the strategy that ``settings`` name.

    Args:
        settings: Its class, and the arguments of its constructor.
        mean: Averages what is no parameter.
        first: What hospitals return, as it is in the first model.

    Raises:
        BadInput: There is no such class, it has neither of Flower's interfaces, or its constructor
            does not take the arguments.
    """
    called = settings.strategy
    found = _class(called)
    if issubclass(found, (Legacy.proximal, Records.proximal)):
        log.warning(
            "--strategy %s asks hospitals for a proximal term in Flower's configuration, which "
            "does not reach them: it is FedAvg. Give --local fedprox --mu in its place",
            called,
        )
    flower = logging.getLogger("flwr")  # its lines, as other libraries', are for --debug alone
    flower.handlers.clear()
    flower.setLevel(logging.NOTSET)
    adapter = _adapter(called, found)
    arguments: dict[str, object] = {**settings.strategy_args}
    if _takes_first(found):
        floats = {name: array for name, array in parameters_of(first).items() if is_float(array)}
        arguments[GIVEN] = initial_parameters(floats)
    try:
        return adapter(called, found(**arguments), mean)
    except Exception as error:
        raise BadInput(
            f"--strategy {called}: it cannot be made: {in_short(error)}; --strategy-args "
            f"NAME=VALUE takes {_arguments(found)}"
        ) from error


def _class(called: str) -> type:
    module, _, name = called.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # files in the current folder, as uvicorn and python -m find them
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _refusal(called, error) from error
        raise BadInput(
            f"--strategy {called}: there is no module {error.name}; give a file of the current "
            "folder, without .py, or a package that is installed"
        ) from None
    except AttributeError as error:
        loaded = sys.modules.get(module)
        if loaded is None:
            raise _refusal(called, error) from error
        raise BadInput(f"--strategy {called}: the module has no {name}; {_offer(loaded)}") from None
    except (Exception, SystemExit) as error:
        raise _refusal(called, error) from error
    if not inspect.isclass(found):
        raise BadInput(f"--strategy {called}: no class, but a {type(found).__name__}; give a class")
    return found


def _refusal(called: str, error: BaseException) -> BadInput:
    return BadInput(f"--strategy {called}: its module raises {in_short(error)}; mend the module")


def _adapter(called: str, found: type) -> type[Legacy] | type[Records]:
    for adapter in (Legacy, Records):
        if issubclass(found, adapter.interface):
            return adapter
    raise BadInput(
        f"--strategy {called}: the class is a subclass of neither flwr.server.strategy.Strategy "
        "nor flwr.serverapp.strategy.Strategy; derive it from one of them"
    )


def _offer(module: object) -> str:
    """Return what a module has to give instead."""
    bases: tuple[type[Adapted], ...] = (Legacy, Records)
    names = sorted(
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, tuple(base.interface for base in bases))
        and not inspect.isabstract(value)
    )
    return f"its strategies are {', '.join(names)}" if names else "it has no strategy at all"


def _takes_first(found: type) -> bool:
    """Return whether a constructor takes the first model, itself or by passing on ``**kwargs``."""
    for each in found.__mro__:
        if "__init__" in vars(each):
            parameters = inspect.signature(each.__init__).parameters.values()  # type: ignore[misc]
            if any(parameter.name == GIVEN for parameter in parameters):
                return True
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                return False
    return False


def _arguments(found: type) -> str:
    names = [name for name in inspect.signature(found).parameters if name != GIVEN]
    return ", ".join(names) if names else "none"
