"""How a hospital trains; one file for each method."""

from client.local.base import LocalTraining
from client.local.feddyn import FedDyn
from client.local.fedprox import FedProx
from client.local.scaffold import Scaffold
from common.options import LocalName

LOCAL: dict[LocalName, type[LocalTraining]] = {
    "sgd": LocalTraining,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
}
