"""Beyond one machine: replicas of the service, and training, on a Ray cluster."""
