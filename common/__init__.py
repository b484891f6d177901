"""Code that server and client share: model, wire format, messages, shards, metrics.

Imports neither Flower nor any other folder. Flower's telemetry and update check are on by default
and read these variables on import; a hospital must not send anything there. gRPC would log a line
at the end of every connection.
"""

import logging
import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
logging.getLogger("flwr").addFilter(lambda _record: False)
