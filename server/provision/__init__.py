"""The federation's CA, its certificates and the hospitals' kits."""
