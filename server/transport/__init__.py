"""The port and the connections: the only place in the server that knows gRPC and Flower."""
