"""What both sides of the federation agree on: model, wire format, messages, shards, metrics.

Imports neither Flower nor any folder beside it. Flower's telemetry and update check are on by
default and read these variables when it is imported; nothing of a hospital may phone home. gRPC
would print a line at the end of every connection.
"""

import logging
import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
logging.getLogger("flwr").addFilter(lambda _record: False)
