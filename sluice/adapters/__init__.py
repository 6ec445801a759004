"""The rim: the only places that import the clients of Kafka, Redis and MLflow."""
