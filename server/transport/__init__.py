"""The port and the connections: the only place in the server that knows gRPC and Flower."""

import common as common  # switches off the telemetry before Flower is imported
