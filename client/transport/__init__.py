"""The connection to the server: the only place in the client that knows gRPC and Flower."""
