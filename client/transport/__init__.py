"""The connection to the server: the only place in the client that knows gRPC and Flower."""

import common as common  # switches off the telemetry before Flower is imported
